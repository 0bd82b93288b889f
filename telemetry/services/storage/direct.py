"""The fast way for messages that are most likely new: all tenants of a batch in one transaction.

Nothing is asked first. Where a message, a reading or a counter is there already, `Conflict` is raised, the
transaction is rolled back, and the batch goes the exact way. Tenants with many messages are written by COPY;
those with few in one pipeline, because COPY costs each of them round trips of its own.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.pq import TransactionStatus

from . import floors, late, refused, rows, sequences, totals
from .floods import FloodGuard
from .sequences import Counter
from .series import SeriesIds
from .statements import run
from .types import AcceptedItem, Outcome

# From so many messages on, COPY costs PostgreSQL less than it costs in round trips.
COPY_FROM = 250


class Conflict(Exception):
    """Something of the batch is stored already."""


@dataclass(slots=True, eq=False)
class Group:
    """A tenant's part of a batch. What is accepted is in `outcome.stored` from the beginning."""

    schema: str
    outcome: Outcome
    series: SeriesIds


def store(
    connection: psycopg.Connection,
    groups: Collection[Group],
    guard: FloodGuard,
    after: Callable[[psycopg.Connection, str, Outcome], None] | None = None,
) -> None:
    """Store the groups, and do what comes `after` each, in a transaction.

    Raises Conflict, or another psycopg.Error; nothing is stored then.
    """
    groups = sorted(groups, key=lambda group: group.schema)
    counters = {group.schema: _counters(group.outcome.stored) for group in groups}
    try:
        if not _write(connection, groups, counters, guard):
            raise Conflict
        if after is not None:
            for group in groups:
                after(connection, group.schema, group.outcome)
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.info.transaction_status != TransactionStatus.UNKNOWN:  # there is a connection still
            connection.execute("ROLLBACK")
        if isinstance(error, psycopg.errors.UniqueViolation):
            raise Conflict from error
        raise


def _write(
    connection: psycopg.Connection,
    groups: Sequence[Group],
    counters: Mapping[str, Sequence[Counter]],
    guard: FloodGuard,
) -> bool:
    """Begin a transaction and write; whether all counters were new."""
    for group in groups:
        group.outcome.readings = rows.readings(group.outcome.stored, group.series)
    large = [group for group in groups if len(group.outcome.stored) >= COPY_FROM]
    if large:
        connection.execute("BEGIN")
    for group in large:
        _copy(connection, rows.COPY_MESSAGES(group.schema), rows.copy_messages(group.outcome.stored))
        _copy(connection, rows.COPY_READINGS(group.schema), rows.copy_readings(group.outcome.readings))
    marked: list[tuple[psycopg.Cursor, int]] = []
    with connection.pipeline():
        if not large:
            connection.execute("BEGIN")
        for group in groups:
            if group.outcome.stored and group not in large:
                _insert(connection, group)
        for group in groups:
            if seen := counters[group.schema]:
                cursor = run(connection, sequences.ADD_UNSEEN(group.schema), sequences.arrays(seen))
                marked.append((cursor, len({(counter.device_id, counter.boot) for counter in seen})))
            late.mark(connection, group.schema, group.outcome.stored)
            floors.raise_floors(connection, group.schema, group.outcome.stored)
            refused.quarantine(connection, group.schema, guard, group.outcome.quarantined)
        for group in groups:
            totals.add(connection, group.schema, group.outcome)
    return all(cursor.rowcount == boots for cursor, boots in marked)


def _counters(items: Sequence[AcceptedItem]) -> list[Counter]:
    """The messages' counters, each once."""
    counters = sequences.counters_of(items)
    if len(set(counters)) != len(counters):
        raise Conflict
    return counters


def _copy(connection: psycopg.Connection, statement: bytes, data: bytes) -> None:
    with connection.cursor().copy(statement) as copy:
        copy.write(data)


def _insert(connection: psycopg.Connection, group: Group) -> None:
    run(connection, rows.INSERT_MESSAGES(group.schema), rows.message_arrays(group.outcome.stored))
    if group.outcome.readings:
        run(connection, rows.INSERT_READINGS(group.schema), rows.reading_arrays(group.outcome.readings))
