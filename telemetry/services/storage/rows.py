"""Accepted messages as the rows of the archive and of the readings."""

from collections.abc import Iterable, Sequence

from . import binary
from .series import SeriesIds
from .statements import per_schema
from .types import AcceptedItem, ReadingRow

_MESSAGES = "{message} (device_id, time, fingerprint, received_at, topic, payload, signature, key_version, late)"
_READINGS = "{reading} (series_id, time, value, text)"
_TABLES = {"message": "telemetry_message", "reading": "telemetry_reading"}

# With `message_arrays` and `reading_arrays`.
_FROM_MESSAGES = "SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_FROM_READINGS = "SELECT * FROM unnest($1, $2, $3, $4)"
INSERT_MESSAGES = per_schema(f"INSERT INTO {_MESSAGES} {_FROM_MESSAGES}", **_TABLES)
INSERT_READINGS = per_schema(f"INSERT INTO {_READINGS} {_FROM_READINGS}", **_TABLES)
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
            ids = of(item.spec.device_id, message.component)
            places = ids[0]
            for metric, value, unit, kind in message.measurements:
                append((ids[places[metric, unit, kind]], time, value))
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
