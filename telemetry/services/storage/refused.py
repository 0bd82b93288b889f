"""What was refused, kept with its reason; the same message refused again is counted."""

from collections.abc import Sequence
from uuid import UUID

import psycopg
from psycopg import sql

from ..pipeline import fingerprint
from . import events
from .types import RefusedItem

_INSERT = (
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


def quarantine(connection: psycopg.Connection, schema: str, refused: Sequence[RefusedItem]) -> None:
    """Keep a tenant's refused messages. Sends statements whose answers nobody waits for, also in a pipeline."""
    _upsert(connection, sql.Identifier(schema, "telemetry_quarantined"), sql.SQL(", device_id"), refused)
    events.note_moved_boards(connection, schema, refused)


def keep_unrouted(connection: psycopg.Connection, refused: Sequence[RefusedItem]) -> None:
    """Keep messages that belong to no tenant, for staff."""
    _upsert(connection, sql.Identifier("public", "tenants_unroutedmessage"), sql.SQL(""), refused)


def _upsert(
    connection: psycopg.Connection, table: sql.Identifier, device: sql.SQL, refused: Sequence[RefusedItem]
) -> None:
    if refused:
        columns = [list(column) for column in zip(*_rows(refused), strict=True)]
        connection.execute(sql.SQL(_INSERT).format(table=table, device=device), columns)


def _rows(refused: Sequence[RefusedItem]) -> list[list[object]]:
    """One row for each different message: fingerprint, reason, detail, topic, payload, first, last, times, device."""
    rows: dict[bytes, list[object]] = {}
    for item in refused:
        at, topic = item.incoming.received_at, item.incoming.topic
        name = fingerprint(item.verdict.reason, topic, item.incoming.payload)
        if (row := rows.get(name)) is not None:
            row[6], row[7] = at, row[7] + 1  # type: ignore[operator]  # the seventh is the count
            continue
        device_id = item.spec.device_id if item.spec else None
        detail = item.verdict.detail.replace("\x00", "\\0")
        payload = item.incoming.payload
        rows[name] = [UUID(bytes=name), item.verdict.reason, detail, topic, payload, at, at, 1, device_id]
    return list(rows.values())
