"""Accepted messages as the rows of the archive and of the readings."""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from psycopg import sql

from . import binary
from .series import SeriesIds
from .types import AcceptedItem

_MESSAGE_COLUMNS = sql.SQL("device_id, time, fingerprint, received_at, topic, payload, signature, key_version, late")
_READING_COLUMNS = sql.SQL("series_id, time, value, text")

_MESSAGE_HEAD = struct.Struct(">hiqiqi16siqi").pack
_MESSAGE_TAIL = struct.Struct(">ihiii?").pack
_LENGTH = struct.Struct(">i").pack
_NUMBER = struct.Struct(">hiqiqidi").pack
_TEXT = struct.Struct(">hiqiqii").pack


class ReadingRow(NamedTuple):
    """A reading: a number (booleans are 0 and 1) or a text, at a time in `binary.micros`."""

    series_id: int
    time: int
    value: float | str


def messages_table(schema: str) -> sql.Composed:
    """The archive with its columns."""
    return sql.SQL("{} ({})").format(sql.Identifier(schema, "telemetry_message"), _MESSAGE_COLUMNS)


def readings_table(schema: str) -> sql.Composed:
    """The readings with their columns."""
    return sql.SQL("{} ({})").format(sql.Identifier(schema, "telemetry_reading"), _READING_COLUMNS)


def insert_messages(schema: str) -> sql.Composed:
    """Takes `message_arrays`."""
    return sql.SQL("INSERT INTO {} SELECT * FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s)").format(
        messages_table(schema)
    )


def insert_readings(schema: str) -> sql.Composed:
    """Takes `reading_arrays`."""
    return sql.SQL("INSERT INTO {} SELECT * FROM unnest(%s, %s, %s, %s)").format(readings_table(schema))


def readings(items: Iterable[AcceptedItem], series: SeriesIds) -> list[ReadingRow]:
    """The readings of the messages, in their order."""
    rows = []
    for item in items:
        message = item.verdict
        if message.measurements:
            time = binary.micros(message.time)
            ids = series.of(item.spec.device_id, message.component)
            for metric, value, unit, kind in message.measurements:
                rows.append(ReadingRow(ids[metric, unit, kind], time, value))
    return rows


def copy_messages(items: Iterable[AcceptedItem]) -> bytes:
    """The messages for COPY … (FORMAT BINARY)."""
    parts = [binary.COPY_HEADER]
    for item in items:
        incoming, message = item.incoming, item.verdict
        topic, payload = incoming.topic.encode(), incoming.payload
        parts += (
            _MESSAGE_HEAD(
                9,
                8,
                item.spec.device_id,
                8,
                binary.micros(message.time),
                16,
                message.fingerprint,
                8,
                binary.micros(incoming.received_at),
                len(topic),
            ),
            topic,
            _LENGTH(len(payload)),
            payload,
            _MESSAGE_TAIL(2, message.signature, 4, message.key_version, 1, message.late),
        )
    parts.append(binary.COPY_TRAILER)
    return b"".join(parts)


def copy_readings(rows: Iterable[ReadingRow]) -> bytes:
    """The readings for COPY … (FORMAT BINARY)."""
    parts = [binary.COPY_HEADER]
    for series_id, time, value in rows:
        if value.__class__ is str:
            text = value.encode()
            parts += (_TEXT(4, 8, series_id, 8, time, -1, len(text)), text)
        else:
            parts.append(_NUMBER(4, 8, series_id, 8, time, 8, value, -1))
    parts.append(binary.COPY_TRAILER)
    return b"".join(parts)


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
        binary.int8s([row.series_id for row in rows]),
        binary.times([row.time for row in rows]),
        binary.floats([None if row.value.__class__ is str else float(row.value) for row in rows]),
        binary.texts([row.value if isinstance(row.value, str) else None for row in rows]),
    ]
