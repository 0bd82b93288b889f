"""Refused messages as rows of the quarantine; repeated messages are counted."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import psycopg

from telemetry.models import ChangeBatch
from telemetry.services.pipeline.results import AcceptedItem, Refusal, RefusedItem
from telemetry.services.pipeline.validation import fingerprint

from . import device_events, statements, suppression
from .message_rows import POSITION
from .statements import run
from .suppression import UNROUTED, QuarantineRow, QuarantineSuppressor

_INSERT = (
    "INSERT INTO {{quarantined}} AS q (fingerprint, reason, detail, topic, payload, first_received_at,"
    " last_received_at, times{columns})"
    " SELECT fingerprint, reason, detail, topic, payload, first_at, last_at, times{values}"
    " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    " AS r(fingerprint, reason, detail, topic, payload, first_at, last_at, times, device_id, metric)"
    # In one order, so that two listeners do not wait for each other crosswise.
    " ORDER BY fingerprint"
    " ON CONFLICT (fingerprint) DO UPDATE SET times = q.times + EXCLUDED.times, detail = EXCLUDED.detail,"
    " last_received_at = greatest(q.last_received_at, EXCLUDED.last_received_at)"
)
_COLUMNS, _VALUES = ", device_id, metric", ", nullif(device_id, 0), metric"
# The row of the changes that names the messages, in the same statement.
_ADD = statements.per_schema(
    f"WITH kept AS ({_INSERT.format(columns=_COLUMNS, values=_VALUES)} RETURNING id)"  # noqa: S608 (ours)
    " INSERT INTO {changes} (generation, transaction, part, stored_at, quarantined, quarantined_ids)"
    f" SELECT {POSITION}, {ChangeBatch.QUARANTINED}, now(), count(*), array_agg(id) FROM kept",
    quarantined="telemetry_quarantined",
    changes="telemetry_changebatch",
    generation="telemetry_changegeneration",
)
_ADD_UNROUTED = statements.per_schema(_INSERT.format(columns="", values=""), quarantined="tenants_unroutedmessage")


def add_quarantined(
    connection: psycopg.Connection, schema: str, suppressor: QuarantineSuppressor, refused: Sequence[RefusedItem]
) -> None:
    """Store a tenant's refused messages. Sends statements without waiting for their results, also in a pipeline.

    The suppressor must have loaded the tenant's day.
    """
    kept, suppressed = suppressor.split(schema, _rows(refused))
    _upsert(connection, _ADD(schema), kept)
    suppressor.write_counts(connection, schema, suppressed)
    device_events.add_board_mismatches(connection, schema, refused)


def add_unrouted(
    connection: psycopg.Connection, suppressor: QuarantineSuppressor, refused: Sequence[RefusedItem], limited: int
) -> None:
    """Store messages that belong to no tenant, for staff, and the number of those that were over a rate."""
    suppressor.load_day(connection, UNROUTED)
    with suppressor.transaction():
        kept, suppressed = suppressor.split(UNROUTED, _rows(refused))
        with connection.transaction() if suppressed or limited else nullcontext():
            _upsert(connection, _ADD_UNROUTED("public"), kept)
            suppressor.write_counts(connection, UNROUTED, suppressed)
            if limited:
                suppression.add_limited_unrouted(connection, limited)


def _upsert(connection: psycopg.Connection, statement: bytes, rows: Sequence[QuarantineRow]) -> None:
    if rows:
        run(connection, statement, _arrays(rows))


def _arrays(rows: Sequence[QuarantineRow]) -> list[statements.Array]:
    return [
        statements.uuid_array([row.name for row in rows]),
        statements.text_array([row.reason for row in rows]),
        statements.text_array([row.detail for row in rows]),
        statements.text_array([row.topic for row in rows]),
        statements.bytes_array([row.payload for row in rows]),
        statements.time_array([statements.micros(row.first_at) for row in rows]),
        statements.time_array([statements.micros(row.last_at) for row in rows]),
        statements.int8_array([row.times for row in rows]),
        statements.int8_array([row.device_id or 0 for row in rows]),
        statements.text_array([row.metric for row in rows]),
    ]


def _rows(refused: Sequence[RefusedItem]) -> list[QuarantineRow]:
    """Return one row for each different message."""
    rows: dict[bytes, QuarantineRow] = {}
    for item in refused:
        at, topic = item.incoming.received_at, item.incoming.topic
        name = fingerprint_of(item.result.reason, topic, item.incoming.payload, item.metric)
        if (row := rows.get(name)) is not None:
            rows[name] = row._replace(last_at=at, times=row.times + 1)
            continue
        device_id = item.owner.device_id if item.owner else None
        detail = item.result.detail.replace("\x00", "\\0")
        payload = item.incoming.payload
        rows[name] = QuarantineRow(name, item.result.reason, detail, topic, payload, at, at, 1, device_id, item.metric)
    return list(rows.values())


def fingerprint_of(reason: str, topic: str, payload: bytes, metric: str) -> bytes:
    """Return the name of a row: the same message, or value of it, refused for the same reason has one row."""
    parts = (reason.encode(), topic.encode(), payload)
    return fingerprint(*parts, metric.encode()) if metric else fingerprint(*parts)


def refused_values_of(stored: Iterable[AcceptedItem]) -> list[RefusedItem]:
    """Return the values that are refused in stored messages, as items of the quarantine."""
    return [
        RefusedItem(item.incoming, item.spec, Refusal(value.reason, value.detail), metric=value.metric)
        for item in stored
        for value in item.result.refused
    ]
