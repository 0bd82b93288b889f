"""Accepted messages as rows: of the archive, of the readings, and of the message counters (boot, seq).

The counters show which messages of a device are repeated, and which are missing. The statements that store messages
and readings also write the row of `ChangeBatch` that names them, which is the order of storing.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from telemetry.models import ChangeBatch
from telemetry.services.pipeline.results import AcceptedItem, ReadingRow, ValidatedMessage

from . import statements
from .series import SeriesIds
from .statements import per_schema, run

_MESSAGES = "{message} (device_id, time, fingerprint, received_at, topic, payload, signature, key_version, late)"
_READINGS = "{reading} (series_id, time, value, text)"
_CHANGES = (
    "{changes} (generation, transaction, part, stored_at, readings, series_ids, times, numbers, texts,"
    " messages, message_devices, message_times, message_fingerprints)"
)
_TABLES = {
    "message": "telemetry_message",
    "reading": "telemetry_reading",
    "changes": "telemetry_changebatch",
    "generation": "telemetry_changegeneration",
}
# A named tuple's own constructor does the same through a function in Python.
_new = tuple.__new__
_SEQUENCE = {"sequence": "telemetry_devicesequence"}

# With `message_arrays` and `reading_arrays`.
_FROM_MESSAGES = "SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_FROM_READINGS = "SELECT * FROM unnest($1, $2, $3, $4)"

_UPSERT_COUNTERS = (
    "INSERT INTO {sequence} AS s (device_id, boot, seen)"
    " SELECT device_id, boot, range_agg(int8range(seq, seq, '[]'))"
    " FROM unnest(COLUMNS) AS c(device_id, boot, seq)"
    " GROUP BY device_id, boot ORDER BY device_id, boot"
    " ON CONFLICT (device_id, boot) DO UPDATE SET seen = s.seen + EXCLUDED.seen"
)
# Returns a row for each boot of a device, except where a counter was seen before.
_UPSERT_UNSEEN_COUNTERS = (
    _UPSERT_COUNTERS.replace("COLUMNS", "$14, $15, $16") + " WHERE NOT s.seen && EXCLUDED.seen RETURNING 1"
)


def _unnest_columns(first: int, last: int) -> str:
    """Return SQL for arrays of one length, side by side in the select list, so that PostgreSQL copies no rows."""
    return "SELECT " + ", ".join(f"unnest(${number})" for number in range(first, last + 1))


# The generation and the transaction of a row of `ChangeBatch`: expressions of the statement and no columns' defaults,
# which Citus refuses. The last generation is read in each statement, since another process may have begun one.
POSITION = "(SELECT max(id) FROM {generation}), pg_current_xact_id()::text::bigint"
_STORED = f"{POSITION}, {ChangeBatch.STORED}, now()"

# All of a tenant's part of a batch in one statement, because each statement costs this process and PostgreSQL some
# 100 µs. Parameters: `message_arrays`, `reading_arrays`, `counter_arrays`, and the number of boots among the counters.
# It fails (with a division by zero) where a counter was seen before: a result row would arrive too late to be checked,
# because the COMMIT is sent right behind the statement.
STORE_NEW = per_schema(
    f"WITH messages AS (INSERT INTO {_MESSAGES} {_unnest_columns(1, 9)}),"  # noqa: S608 (all of it is ours)
    f" readings AS (INSERT INTO {_READINGS} {_unnest_columns(10, 13)}),"
    f" changes AS (INSERT INTO {_CHANGES} SELECT {_STORED}, cardinality($10), $10, $11, $12, $13,"
    " cardinality($1), $1, $2, $3),"
    f" added AS ({_UPSERT_UNSEEN_COUNTERS})"
    " SELECT 1 / (count(*) = $17)::int FROM added",
    **_TABLES,
    **_SEQUENCE,
)
INSERT_NEW_MESSAGES = per_schema(
    f"INSERT INTO {_MESSAGES} {_FROM_MESSAGES} ON CONFLICT DO NOTHING RETURNING device_id, time, fingerprint",
    **_TABLES,
)
# With `reading_arrays`, and the first three of `message_arrays` of their messages, which are new.
INSERT_NEW_READINGS = per_schema(
    f"WITH readings AS (INSERT INTO {_READINGS} {_FROM_READINGS} ON CONFLICT DO NOTHING"  # noqa: S608 (all of it is ours)
    " RETURNING series_id, time, value, text)"
    f" INSERT INTO {_CHANGES} SELECT {_STORED}, count(*), array_agg(series_id), array_agg(time),"
    " array_agg(value), array_agg(text), cardinality($5), $5, $6, $7 FROM readings",
    **_TABLES,
)
_ADD_COUNTERS = per_schema(_UPSERT_COUNTERS.replace("COLUMNS", "$1, $2, $3"), **_SEQUENCE)
_LOCK_BOOTS = per_schema(
    "SELECT 1 FROM {sequence} AS s WHERE (device_id, boot) IN (SELECT * FROM unnest($1, $2))"
    " ORDER BY device_id, boot FOR UPDATE",
    **_SEQUENCE,
)
_FIND_SEEN_COUNTERS = per_schema(
    "SELECT c.* FROM unnest($1, $2, $3) AS c(device_id, boot, seq)"
    " JOIN {sequence} AS s USING (device_id, boot) WHERE s.seen @> c.seq",
    **_SEQUENCE,
)


def times_of(items: Iterable[AcceptedItem]) -> list[int]:
    """Return the messages' times in `statements.micros`."""
    return [statements.micros(item.result.time) for item in items]


def own_times(message: ValidatedMessage) -> set[datetime]:
    """Return the times of timed measurements."""
    return {one.time for one in (*message.measurements, *message.unmapped)}  # type: ignore[attr-defined]


def readings_of(items: Iterable[AcceptedItem], times: Iterable[int], series: SeriesIds) -> list[ReadingRow]:
    """Return the readings of the messages, whose times are `times_of` them, in their order."""
    rows: list[ReadingRow] = []
    append, ids_of = rows.append, series.ids_of
    for item, time in zip(items, times, strict=True):
        message = item.result
        if message.measurements:
            offsets, first = ids_of(item.spec.device_id, message.component)
            if message.is_timed:
                for metric, value, unit, kind, moment in message.measurements:  # type: ignore[misc]
                    append((first + offsets[metric, unit, kind], statements.micros(moment), value))
                continue
            for metric, value, unit, kind in message.measurements:
                append((first + offsets[metric, unit, kind], time, value))
    return rows


def message_arrays(items: Sequence[AcceptedItem], times: Sequence[int]) -> list[statements.Array]:
    """Return the messages, whose times are `times_of` them, as one array for each column."""
    return [
        statements.int8_array([item.spec.device_id for item in items]),
        statements.time_array(times),
        statements.uuid_array([item.result.fingerprint for item in items]),
        statements.time_array(_received_micros(items)),
        statements.text_array([item.incoming.topic for item in items]),
        statements.bytes_array([item.incoming.payload for item in items]),
        statements.int2_array([item.result.signature for item in items]),
        statements.int4_array([item.result.key_version for item in items]),
        statements.bool_array([item.result.late for item in items]),
    ]


def _received_micros(items: Iterable[AcceptedItem]) -> list[int]:
    """Return when each message was received: one object for all messages of one read."""
    found: list[int] = []
    moment, micros = None, 0
    for item in items:
        if item.incoming.received_at is not moment:
            moment = item.incoming.received_at
            micros = statements.micros(moment)
        found.append(micros)
    return found


def reading_arrays(rows: Sequence[ReadingRow]) -> list[statements.Array]:
    """Return the readings as one array for each column."""
    values = [row[2] for row in rows]
    return [
        statements.int8_array([row[0] for row in rows]),
        statements.time_array([row[1] for row in rows]),
        *(_mixed_arrays(values) if str in set(map(type, values)) else _number_arrays(values)),
    ]


def _number_arrays(values: Sequence[Any]) -> list[statements.Array]:
    return [statements.float8_array(values), statements.null_texts(len(values))]


def _mixed_arrays(values: Sequence[float | str]) -> list[statements.Array]:
    return [
        statements.float8_array([None if isinstance(value, str) else value for value in values]),
        statements.text_array([value if isinstance(value, str) else None for value in values]),
    ]


# --- message counters -----------------------------------------------------------------------------------------


class MessageCounter(NamedTuple):
    """A message's counter, which a device uses once in its life."""

    device_id: int
    boot: int
    seq: int


def counter_of(item: AcceptedItem) -> MessageCounter | None:
    """Return the message's counter, None in version 1."""
    counter = item.result.counter
    return None if counter is None else MessageCounter(item.spec.device_id, *counter)


def counters_of(items: Iterable[AcceptedItem]) -> list[MessageCounter]:
    """Return the counters of the messages that have one."""
    return [
        _new(MessageCounter, (item.spec.device_id, *item.result.counter))
        for item in items
        if item.result.counter is not None
    ]


def counter_arrays(counters: Sequence[MessageCounter]) -> list[statements.Array]:
    """Return the counters as one array for each column."""
    return [statements.int8_array(column) for column in zip(*counters, strict=True)] or [statements.int8_array(())] * 3


def lock_and_find_seen(
    connection: psycopg.Connection, schema: str, counters: Sequence[MessageCounter]
) -> set[MessageCounter]:
    """Lock the devices' boots in order, and return the counters that were seen before."""
    columns = counter_arrays(sorted(set(counters)))
    run(connection, _LOCK_BOOTS(schema), columns[:2])
    return _find_seen(connection, schema, columns)


def find_seen(connection: psycopg.Connection, schema: str, counters: Sequence[MessageCounter]) -> set[MessageCounter]:
    """Return the counters that were seen before, without a lock."""
    return _find_seen(connection, schema, counter_arrays(counters))


def _find_seen(connection: psycopg.Connection, schema: str, columns: Sequence[statements.Array]) -> set[MessageCounter]:
    return {MessageCounter(*row) for row in run(connection, _FIND_SEEN_COUNTERS(schema), columns)}


def add_counters(connection: psycopg.Connection, schema: str, counters: Iterable[MessageCounter]) -> None:
    """Mark counters as seen, including those that were seen before."""
    if listed := sorted(set(counters)):
        run(connection, _ADD_COUNTERS(schema), counter_arrays(listed))
