"""The steps of background work on a tenant's telemetry: one transaction each, one worker at a time.

A step that is killed is as if it had never begun, and the next run does it. Everything is in the current schema.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import OperationalError, connection, transaction

from tenants.infrastructure.retry import is_lock_conflict

_SECONDS = "5s"


class Busy(Exception):
    """Another worker, or a long transaction, is in the way: nothing was done, the next run tries again."""


@dataclass(frozen=True, slots=True)
class State:
    """How far the work has come; see `telemetry.models.RollupState`."""

    marked_until: datetime | None
    rolled_until: datetime | None
    packed_until: datetime | None
    readings_from: datetime | None


@contextmanager
def step(lock_timeout: str = _SECONDS) -> Iterator[tuple[Any, State]]:
    """A transaction under the tenant's work lock: a cursor, and the state. Raises Busy."""
    with _busy(), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [lock_timeout])
        yield cursor, _lock(cursor)


def state() -> State:
    """The state, without waiting for a worker."""
    with connection.cursor() as cursor:
        return _read(cursor, "")


@contextmanager
def _busy() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if is_lock_conflict(error):
            raise Busy(str(error).strip()) from error
        raise


def _lock(cursor: Any) -> State:
    return _read(cursor, "FOR UPDATE")


def _read(cursor: Any, lock: str) -> State:
    cursor.execute(
        f"SELECT marked_until, rolled_until, packed_until, readings_from FROM telemetry_rollupstate {lock}"  # noqa: S608
    )
    return State(*cursor.fetchone())
