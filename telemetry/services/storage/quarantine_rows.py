"""Refused messages as rows of the quarantine; repeated messages are counted."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from telemetry.models import ChangeBatch
from telemetry.services.pipeline.results import RefusedItem
from telemetry.services.pipeline.validation import fingerprint

from . import device_events, suppression
from .message_rows import POSITION
from .suppression import UNROUTED, QuarantineRow, QuarantineSuppressor

_UPSERT = (
    "INSERT INTO {table} AS q (fingerprint, reason, detail, topic, payload, first_received_at,"
    " last_received_at, times{device})"
    " SELECT fingerprint, reason, detail, topic, payload, first_at, last_at, times{device}"
    " FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::timestamptz[],"
    " %s::timestamptz[], %s::bigint[], %s::bigint[])"
    " AS r(fingerprint, reason, detail, topic, payload, first_at, last_at, times, device_id)"
    # In one order, so that two listeners do not wait for each other crosswise.
    " ORDER BY fingerprint"
    " ON CONFLICT (fingerprint) DO UPDATE SET times = q.times + EXCLUDED.times, detail = EXCLUDED.detail,"
    " last_received_at = greatest(q.last_received_at, EXCLUDED.last_received_at)"
)
# The row of the changes that names the messages, in the same statement.
_UPSERT_AND_NOTE = (
    f"WITH kept AS ({_UPSERT} RETURNING id)"  # noqa: S608 (ours)
    " INSERT INTO {changes} (generation, transaction, part, stored_at, quarantined, quarantined_ids)"
    f" SELECT {POSITION}, {ChangeBatch.QUARANTINED}, now(), count(*), array_agg(id) FROM kept"
)


def add_quarantined(
    connection: psycopg.Connection, schema: str, suppressor: QuarantineSuppressor, refused: Sequence[RefusedItem]
) -> None:
    """Store a tenant's refused messages. Sends statements without waiting for their results, also in a pipeline.

    The suppressor must have loaded the tenant's day.
    """
    kept, suppressed = suppressor.split(schema, _rows(refused))
    if kept:
        statement = sql.SQL(_UPSERT_AND_NOTE).format(
            table=sql.Identifier(schema, "telemetry_quarantined"),
            device=sql.SQL(", device_id"),
            changes=sql.Identifier(schema, "telemetry_changebatch"),
            generation=sql.Identifier(schema, "telemetry_changegeneration"),
        )
        connection.execute(statement, _columns(kept))
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
            if kept:
                table = sql.Identifier("public", "tenants_unroutedmessage")
                connection.execute(sql.SQL(_UPSERT).format(table=table, device=sql.SQL("")), _columns(kept))
            suppressor.write_counts(connection, UNROUTED, suppressed)
            if limited:
                suppression.add_limited_unrouted(connection, limited)


def _columns(rows: Sequence[QuarantineRow]) -> list[list[Any]]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    columns[0] = [UUID(bytes=name) for name in columns[0]]
    return columns


def _rows(refused: Sequence[RefusedItem]) -> list[QuarantineRow]:
    """Return one row for each different message."""
    rows: dict[bytes, QuarantineRow] = {}
    for item in refused:
        at, topic = item.incoming.received_at, item.incoming.topic
        name = fingerprint(item.result.reason.encode(), topic.encode(), item.incoming.payload)
        if (row := rows.get(name)) is not None:
            rows[name] = row._replace(last_at=at, times=row.times + 1)
            continue
        device_id = item.owner.device_id if item.owner else None
        detail = item.result.detail.replace("\x00", "\\0")
        rows[name] = QuarantineRow(name, item.result.reason, detail, topic, item.incoming.payload, at, at, 1, device_id)
    return list(rows.values())
