"""Retries: pauses that grow, and errors told apart."""

import time

import django.db
import psycopg
import pytest

from tenants.infrastructure.retry import Backoff, first_line, is_database_lost, is_lock_conflict


def test_pauses_double_up_to_the_longest_and_begin_again_after_a_success() -> None:
    backoff = Backoff(0.2, 1.0)
    assert [backoff.fail() for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert backoff.is_pausing, "a pause that has begun goes on"
    assert backoff.fail() == 0.2


def test_a_pause_ends_with_its_time_or_at_once() -> None:
    backoff = Backoff(0.05, 30.0)
    assert not backoff.is_pausing
    assert backoff.remaining == 0.0
    backoff.fail()
    assert backoff.is_pausing
    assert 0.0 < backoff.remaining <= 0.05
    time.sleep(backoff.remaining)
    assert not backoff.is_pausing
    backoff.fail()
    backoff.retry_now()
    assert not backoff.is_pausing


def _of_django(cause: Exception) -> Exception:
    error = django.db.OperationalError("canceling statement")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "lost", "locked"),
    [
        (psycopg.OperationalError("the server closed the connection"), True, False),
        (psycopg.InterfaceError("the connection is closed"), True, False),
        (django.db.OperationalError("connection refused"), True, False),
        (django.db.InterfaceError("connection already closed"), True, False),
        (psycopg.errors.LockNotAvailable("lock timeout"), False, True),
        (psycopg.errors.DeadlockDetected("deadlock"), False, True),
        (_of_django(psycopg.errors.LockNotAvailable("lock timeout")), False, True),
        (psycopg.DataError("invalid byte sequence"), False, False),
        (django.db.IntegrityError("duplicate key"), False, False),
    ],
)
def test_what_a_lost_database_raises_and_what_a_lock(error: Exception, lost: bool, locked: bool) -> None:
    assert (is_database_lost(error), is_lock_conflict(error)) == (lost, locked)


def test_the_first_line_of_an_error() -> None:
    assert first_line(psycopg.OperationalError("connection failed\n  is the server running?\n")) == "connection failed"
    assert first_line(TimeoutError()) == "TimeoutError"
