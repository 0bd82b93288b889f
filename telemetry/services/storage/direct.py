"""The fast way for messages that are most likely new: all tenants of a batch in one transaction.

Nothing is asked first. Where a message, a reading or a counter is there already, `Conflict` is raised, the
transaction is rolled back, and the batch goes the exact way. Tenants with many messages are written by COPY;
those with few in one pipeline, because COPY costs each of them round trips of its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from . import floors, late, refused, rows, sequences, totals
from .rows import ReadingRow
from .sequences import Counter
from .series import SeriesIds
from .types import AcceptedItem, Outcome

# From so many messages on, COPY costs PostgreSQL less than it costs in round trips.
COPY_FROM = 100


class Conflict(Exception):
    """Something of the batch is stored already."""


@dataclass(slots=True)
class Group:
    """A tenant's part of a batch. What is accepted is in `outcome.stored` from the beginning."""

    schema: str
    outcome: Outcome
    series: SeriesIds


def store(connection: psycopg.Connection, groups: Collection[Group]) -> None:
    """Store the groups within the caller's transaction. Raises Conflict, or another psycopg.Error."""
    try:
        _store(connection, sorted(groups, key=lambda group: group.schema))
    except psycopg.errors.UniqueViolation as error:
        raise Conflict from error


def _store(connection: psycopg.Connection, groups: Sequence[Group]) -> None:
    counters = {group.schema: _counters(group.outcome.stored) for group in groups}
    readings = {group.schema: rows.readings(group.outcome.stored, group.series) for group in groups}
    large = [group for group in groups if len(group.outcome.stored) >= COPY_FROM]
    small = [group for group in groups if len(group.outcome.stored) < COPY_FROM]
    for group in large:
        _copy(connection, group, readings[group.schema])
    marked: list[tuple[psycopg.Cursor, int]] = []
    with connection.pipeline():
        for group in small:
            _insert(connection, group, readings[group.schema])
        for group in groups:
            schema, outcome = group.schema, group.outcome
            if seen := counters[schema]:
                arrays = sequences.arrays(seen)
                boots = len({(counter.device_id, counter.boot) for counter in seen})
                marked.append((connection.execute(sequences.add_unseen(schema), arrays), boots))
            late.mark(connection, schema, outcome.stored)
            floors.raise_floors(connection, schema, outcome.stored)
            refused.quarantine(connection, schema, outcome.quarantined)
        for group in groups:
            totals.add(connection, group.schema, group.outcome)
    if any(cursor.rowcount != boots for cursor, boots in marked):
        raise Conflict


def _counters(items: Sequence[AcceptedItem]) -> list[Counter]:
    """The messages' counters, each once."""
    counters = sequences.counters_of(items)
    if len(set(counters)) != len(counters):
        raise Conflict
    return counters


def _copy(connection: psycopg.Connection, group: Group, readings: Sequence[ReadingRow]) -> None:
    _copy_into(connection, rows.messages_table(group.schema), rows.copy_messages(group.outcome.stored))
    if readings:
        _copy_into(connection, rows.readings_table(group.schema), rows.copy_readings(readings))


def _copy_into(connection: psycopg.Connection, table: sql.Composed, data: bytes) -> None:
    with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(table)) as copy:
        copy.write(data)


def _insert(connection: psycopg.Connection, group: Group, readings: Sequence[ReadingRow]) -> None:
    if group.outcome.stored:
        connection.execute(rows.insert_messages(group.schema), rows.message_arrays(group.outcome.stored))
    if readings:
        connection.execute(rows.insert_readings(group.schema), rows.reading_arrays(readings))
