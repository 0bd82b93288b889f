"""Accepted messages as the rows of the archive and of the readings."""

from collections.abc import Iterable, Sequence

from telemetry.services.pipeline.results import AcceptedItem, ReadingRow

from . import binary
from .sequences import upsert_unseen
from .series import SeriesIds
from .statements import per_schema

_MESSAGES = "{message} (device_id, time, fingerprint, received_at, topic, payload, signature, key_version, late)"
_READINGS = "{reading} (series_id, time, value, text)"
_TABLES = {"message": "telemetry_message", "reading": "telemetry_reading"}

# With `message_arrays` and `reading_arrays`.
_FROM_MESSAGES = "SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_FROM_READINGS = "SELECT * FROM unnest($1, $2, $3, $4)"


def _side_by_side(first: int, last: int) -> str:
    """The same of arrays of one length, in the list of what is selected: PostgreSQL then keeps no copy of the rows."""
    return "SELECT " + ", ".join(f"unnest(${number})" for number in range(first, last + 1))


# All of a tenant's part of a batch in one statement, because each costs this process and PostgreSQL some 100 µs. With
# both, `sequences.arrays` and the number of boots among the counters; fails (with a division by zero) where a counter
# was seen before: an answer that somebody has to look at would come too late, with the COMMIT on its way behind it.
STORE_NEW = per_schema(
    f"WITH messages AS (INSERT INTO {_MESSAGES} {_side_by_side(1, 9)}),"  # noqa: S608 (all of it is ours)
    f" readings AS (INSERT INTO {_READINGS} {_side_by_side(10, 13)}),"
    f" added AS ({upsert_unseen('$14, $15, $16')})"
    " SELECT 1 / (count(*) = $17)::int FROM added",
    **_TABLES,
    sequence="telemetry_devicesequence",
)
INSERT_NEW_MESSAGES = per_schema(
    f"INSERT INTO {_MESSAGES} {_FROM_MESSAGES} ON CONFLICT DO NOTHING RETURNING device_id, time, fingerprint",
    **_TABLES,
)
INSERT_NEW_READINGS = per_schema(f"INSERT INTO {_READINGS} {_FROM_READINGS} ON CONFLICT DO NOTHING", **_TABLES)


def readings(items: Iterable[AcceptedItem], series: SeriesIds) -> list[ReadingRow]:
    """The readings of the messages, in their order."""
    rows: list[ReadingRow] = []
    append, of = rows.append, series.of
    for item in items:
        message = item.verdict
        if message.measurements:
            time = binary.micros(message.time)
            offsets, first = of(item.spec.device_id, message.component)
            for metric, value, unit, kind in message.measurements:
                append((first + offsets[metric, unit, kind], time, value))
    return rows


def message_arrays(items: Sequence[AcceptedItem]) -> list[binary.Array]:
    """The messages as one array for each column."""
    return [
        binary.int8s([item.spec.device_id for item in items]),
        binary.times([binary.micros(item.verdict.time) for item in items]),
        binary.uuids([item.verdict.fingerprint for item in items]),
        binary.times([binary.micros(item.incoming.received_at) for item in items]),
        binary.texts([item.incoming.topic for item in items]),
        binary.byte_strings([item.incoming.payload for item in items]),
        binary.int2s([item.verdict.signature for item in items]),
        binary.int4s([item.verdict.key_version for item in items]),
        binary.bools([item.verdict.late for item in items]),
    ]


def reading_arrays(rows: Sequence[ReadingRow]) -> list[binary.Array]:
    """The readings as one array for each column."""
    return [
        binary.int8s([row[0] for row in rows]),
        binary.times([row[1] for row in rows]),
        binary.floats([None if isinstance(row[2], str) else float(row[2]) for row in rows]),
        binary.texts([row[2] if isinstance(row[2], str) else None for row in rows]),
    ]
