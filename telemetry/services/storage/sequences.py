"""Which message counters (boot, seq) of a device were seen: what is replayed, and what is missing."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import psycopg

from telemetry.services.pipeline.results import AcceptedItem

from . import binary
from .statements import per_schema, run

_TABLE = {"sequence": "telemetry_devicesequence"}
_UPSERT = (
    "INSERT INTO {sequence} AS s (device_id, boot, seen)"
    " SELECT device_id, boot, range_agg(int8range(seq, seq, '[]'))"
    " FROM unnest(COLUMNS) AS c(device_id, boot, seq)"
    " GROUP BY device_id, boot ORDER BY device_id, boot"
    " ON CONFLICT (device_id, boot) DO UPDATE SET seen = s.seen + EXCLUDED.seen"
)
_ADD = per_schema(_UPSERT.replace("COLUMNS", "$1, $2, $3"), **_TABLE)
_LOCK = per_schema(
    "SELECT 1 FROM {sequence} AS s WHERE (device_id, boot) IN (SELECT * FROM unnest($1, $2))"
    " ORDER BY device_id, boot FOR UPDATE",
    **_TABLE,
)
_FIND_SEEN = per_schema(
    "SELECT c.* FROM unnest($1, $2, $3) AS c(device_id, boot, seq)"
    " JOIN {sequence} AS s USING (device_id, boot) WHERE s.seen @> c.seq",
    **_TABLE,
)


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


def arrays(counters: Sequence[Counter]) -> list[binary.Array]:
    """The counters as parameters of the statements."""
    return [binary.int8s([counter[place] for counter in counters]) for place in range(3)]


def lock_and_find_seen(connection: psycopg.Connection, schema: str, counters: Sequence[Counter]) -> set[Counter]:
    """Lock the devices' boots in order, and tell which of the counters were seen before."""
    columns = arrays(sorted(set(counters)))
    run(connection, _LOCK(schema), columns[:2])
    rows = run(connection, _FIND_SEEN(schema), columns)
    return {Counter(*row) for row in rows}


def upsert_unseen(columns: str) -> str:
    """The part of a statement that marks the counters in these parameters as seen, and returns a row for each boot of a
    device, but for one with a counter that was seen before.
    """
    return _UPSERT.replace("COLUMNS", columns) + " WHERE NOT s.seen && EXCLUDED.seen RETURNING 1"


def add(connection: psycopg.Connection, schema: str, counters: Iterable[Counter]) -> None:
    """Mark counters as seen, whether they were or not."""
    if listed := sorted(set(counters)):
        run(connection, _ADD(schema), arrays(listed))
