"""Which message counters (boot, seq) of a device were seen: what is replayed, and what is missing."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from . import binary
from .types import AcceptedItem


class Counter(NamedTuple):
    """A message's place: used once in a device's life."""

    device_id: int
    boot: int
    seq: int


def counter_of(item: AcceptedItem) -> Counter | None:
    """The message's counter; None in version 1, which has none."""
    counter = item.verdict.counter
    return None if counter is None else Counter(item.spec.device_id, *counter)


def counters_of(items: Iterable[AcceptedItem]) -> list[Counter]:
    """The counters of those messages that have one."""
    return [Counter(item.spec.device_id, *item.verdict.counter) for item in items if item.verdict.counter is not None]


def add_unseen(schema: str) -> sql.Composed:
    """Mark counters as seen; touches fewer rows than there are (device, boot) when one of them was seen before.

    Takes `arrays`.
    """
    return sql.SQL(
        "INSERT INTO {} AS s (device_id, boot, seen)"
        " SELECT device_id, boot, range_agg(int8range(seq, seq, '[]'))"
        " FROM unnest(%s, %s, %s) AS c(device_id, boot, seq)"
        " GROUP BY device_id, boot ORDER BY device_id, boot"
        " ON CONFLICT (device_id, boot) DO UPDATE SET seen = s.seen + EXCLUDED.seen"
        " WHERE NOT s.seen && EXCLUDED.seen"
    ).format(_table(schema))


def arrays(counters: Sequence[Counter]) -> list[binary.Array]:
    """The counters as parameters."""
    return [
        binary.int8s([counter.device_id for counter in counters]),
        binary.int8s([counter.boot for counter in counters]),
        binary.int8s([counter.seq for counter in counters]),
    ]


def lock_and_find_seen(connection: psycopg.Connection, schema: str, counters: Sequence[Counter]) -> set[Counter]:
    """Lock the devices' boots in order, and tell which of the counters were seen before."""
    columns = arrays(sorted(set(counters)))
    connection.execute(
        sql.SQL(
            "SELECT 1 FROM {} AS s WHERE (device_id, boot) IN (SELECT * FROM unnest(%s, %s))"
            " ORDER BY device_id, boot FOR UPDATE"
        ).format(_table(schema)),
        columns[:2],
    )
    rows = connection.execute(
        sql.SQL(
            "SELECT c.* FROM unnest(%s, %s, %s) AS c(device_id, boot, seq)"
            " JOIN {} AS s USING (device_id, boot) WHERE s.seen @> c.seq"
        ).format(_table(schema)),
        columns,
    )
    return {Counter(*row) for row in rows}


def add(connection: psycopg.Connection, schema: str, counters: Iterable[Counter]) -> None:
    """Mark counters as seen, whether they were or not."""
    if listed := sorted(set(counters)):
        connection.execute(
            sql.SQL(
                "INSERT INTO {} AS s (device_id, boot, seen)"
                " SELECT device_id, boot, range_agg(int8range(seq, seq, '[]'))"
                " FROM unnest(%s, %s, %s) AS c(device_id, boot, seq)"
                " GROUP BY device_id, boot ORDER BY device_id, boot"
                " ON CONFLICT (device_id, boot) DO UPDATE SET seen = s.seen + EXCLUDED.seen"
            ).format(_table(schema)),
            arrays(listed),
        )


def _table(schema: str) -> sql.Identifier:
    return sql.Identifier(schema, "telemetry_devicesequence")
