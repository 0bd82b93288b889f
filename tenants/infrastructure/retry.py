"""Retries: which errors mean a lost database or a lock conflict, and pauses that grow between attempts."""

import time

import django.db
import psycopg

from .sql_errors import ErrorKind, kind_of

# Errors of a lost database, from Django's connection and from connections of our own. Lock conflicts and a few errors
# of a schema or of data are among them: check `kind_of` first where they are handled differently.
DATABASE_LOST = (
    django.db.OperationalError,
    django.db.InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    # A standby that was promised to be a primary, and a connection whose transaction was not rolled back.
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.InFailedSqlTransaction,
)


class Backoff:
    """Pauses between attempts, in seconds: `shortest` after the first failure, then twice as long up to `longest`."""

    def __init__(self, shortest: float = 0.2, longest: float = 5.0) -> None:
        self._shortest, self._longest = shortest, longest
        self._pause = shortest
        self._retry_at = 0.0

    @property
    def is_pausing(self) -> bool:
        """Whether the pause after the last failure is not over."""
        return time.monotonic() < self._retry_at

    @property
    def remaining(self) -> float:
        """Seconds until the next attempt, 0 when it is due."""
        return max(0.0, self._retry_at - time.monotonic())

    def fail(self) -> float:
        """Start the pause that follows a failure and return its length; the next one is longer."""
        pause = self._pause
        self._retry_at = time.monotonic() + pause
        self._pause = min(2 * pause, self._longest)
        return pause

    def reset(self) -> None:
        """Make the next pause the shortest again, after a success. A pause that has begun goes on."""
        self._pause = self._shortest

    def retry_now(self) -> None:
        """End the pause that has begun."""
        self._retry_at = 0.0


def is_lock_conflict(error: BaseException) -> bool:
    """Return whether a statement failed because another transaction holds a lock, for example a migration.

    Accepts psycopg's errors and Django's around them. A full table of locks, and a cancelled statement, count as well.
    """
    return kind_of(error) is ErrorKind.LOCK


def is_database_lost(error: BaseException) -> bool:
    """Return whether the error means a lost database, and not only a locked or faulty schema."""
    return isinstance(error, DATABASE_LOST) and kind_of(error) is ErrorKind.SERVER


def first_line(error: BaseException) -> str:
    """Return the first line of the error's text, for a log line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
