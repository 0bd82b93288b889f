"""What was refused, kept with its reason; the same message refused again is counted, and so is a flood."""

from collections.abc import Sequence
from contextlib import nullcontext
from uuid import UUID

import psycopg
from psycopg import sql

from telemetry.services.pipeline.processing import fingerprint
from telemetry.services.pipeline.results import RefusedItem

from . import device_events
from .suppression import NOBODY, FloodGuard, RefusedRow

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


def quarantine(connection: psycopg.Connection, schema: str, guard: FloodGuard, refused: Sequence[RefusedItem]) -> None:
    """Keep a tenant's refused messages. Sends statements whose answers nobody waits for, also in a pipeline.

    The guard must have been opened for the tenant.
    """
    if refused:
        kept, counted = guard.sift(schema, _rows(refused))
        _upsert(connection, sql.Identifier(schema, "telemetry_quarantined"), sql.SQL(", device_id"), kept)
        guard.count(connection, schema, counted)
        device_events.note_moved_boards(connection, schema, refused)


def keep_unrouted(connection: psycopg.Connection, guard: FloodGuard, refused: Sequence[RefusedItem]) -> None:
    """Keep messages that belong to no tenant, for staff."""
    guard.open(connection, NOBODY)
    with guard.transaction():
        kept, counted = guard.sift(NOBODY, _rows(refused))
        with connection.transaction() if counted else nullcontext():
            _upsert(connection, sql.Identifier("public", "tenants_unroutedmessage"), sql.SQL(""), kept)
            guard.count(connection, NOBODY, counted)


def _upsert(connection: psycopg.Connection, table: sql.Identifier, device: sql.SQL, rows: Sequence[RefusedRow]) -> None:
    if rows:
        columns = [list(column) for column in zip(*rows, strict=True)]
        columns[0] = [UUID(bytes=name) for name in columns[0]]
        connection.execute(sql.SQL(_INSERT).format(table=table, device=device), columns)


def _rows(refused: Sequence[RefusedItem]) -> list[RefusedRow]:
    """One row for each different message."""
    rows: dict[bytes, RefusedRow] = {}
    for item in refused:
        at, topic = item.incoming.received_at, item.incoming.topic
        name = fingerprint(item.verdict.reason.encode(), topic.encode(), item.incoming.payload)
        if (row := rows.get(name)) is not None:
            rows[name] = row._replace(last_at=at, times=row.times + 1)
            continue
        device_id = item.spec.device_id if item.spec else None
        detail = item.verdict.detail.replace("\x00", "\\0")
        rows[name] = RefusedRow(name, item.verdict.reason, detail, topic, item.incoming.payload, at, at, 1, device_id)
    return list(rows.values())
