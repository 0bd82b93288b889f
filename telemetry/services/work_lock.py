"""The work lock of a tenant's telemetry: steps of background work, one transaction each, one worker at a time.

A step that dies is rolled back, and the next run repeats it. All functions use the current schema.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import OperationalError, connection, transaction

from tenants.infrastructure.retry import is_lock_conflict

_SECONDS = "5s"


class WorkLockBusy(Exception):
    """Another worker or a long transaction holds a lock: nothing was done, and the next run tries again."""


@dataclass(frozen=True, slots=True)
class WorkState:
    """The progress of the work; see `telemetry.models.RollupState`."""

    marked_until: datetime | None
    rolled_until: datetime | None
    packed_until: datetime | None
    readings_from: datetime | None


@contextmanager
def locked_step(lock_timeout: str = _SECONDS) -> Iterator[tuple[Any, WorkState]]:
    """Open a transaction under the tenant's work lock; yield a cursor and the state. Raises WorkLockBusy."""
    with _busy_as_error(), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [lock_timeout])
        yield cursor, _lock(cursor)


def work_state() -> WorkState:
    """Return the state without the lock."""
    with connection.cursor() as cursor:
        return _read(cursor, "")


@contextmanager
def _busy_as_error() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if is_lock_conflict(error):
            raise WorkLockBusy(str(error).strip()) from error
        raise


def _lock(cursor: Any) -> WorkState:
    return _read(cursor, "FOR UPDATE")


def _read(cursor: Any, lock: str) -> WorkState:
    cursor.execute(
        f"SELECT marked_until, rolled_until, packed_until, readings_from FROM telemetry_rollupstate {lock}"  # noqa: S608
    )
    return WorkState(*cursor.fetchone())
