"""Retention of the quarantine by age and size, in batches.

A quarantine that is too large loses the oldest rows of the source with the most bytes, until the next source has as
many, and so on: a source that floods displaces only its own rows. Deferred messages wait for their key and
are never deleted; messages over a quota are deleted last.
"""

import time as clock
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django_tenants.utils import schema_context

from telemetry.models.quarantine import DEFERRED, DELETED_LAST
from telemetry.services.storage.quarantine_changes import note_removed
from telemetry.services.storage.suppression import ROW_BYTES, TOPIC_SOURCE
from tenants.infrastructure.chunks import chunks

_ROWS = 2000
_SECONDS = 120.0
_NEVER_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
_NO_LIMIT = 2**62
# The most rows that a run deletes because of the size; the next run deletes more.
_MOST_EXCESS = 200_000

_SIZE = f"pg_column_size(payload) + pg_column_size(topic) + pg_column_size(detail) + {ROW_BYTES}"
_DELETE_OLD = (
    "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE last_received_at < %s"
    " AND reason <> ALL(%s) ORDER BY last_received_at LIMIT %s) RETURNING id"
)
# `depth` are the bytes of a row's source from its newest row to this one: the deepest rows first are the oldest of the
# largest sources, each down to the level of the next.
_EXCESS = (
    "WITH sized AS (SELECT id, last_received_at, {source} AS source, {size} AS size FROM {table} WHERE {which}),"
    " deep AS (SELECT id, size, sum(size) OVER (PARTITION BY source ORDER BY last_received_at DESC, id DESC) AS depth"
    " FROM sized),"
    " summed AS (SELECT id, size, sum(size) OVER (ORDER BY depth DESC, id) - size AS before FROM deep)"
    " SELECT id, size FROM summed WHERE before < %s ORDER BY before LIMIT %s"
)
_DELETE = "DELETE FROM {table} WHERE id = ANY(%s) RETURNING id"
_DELETE_ORDER = (
    ("reason <> ALL(%s)", sorted(DEFERRED | DELETED_LAST)),
    ("reason = ANY(%s)", sorted(DELETED_LAST)),
)


@dataclass(frozen=True, slots=True)
class _Tables:
    """Names of tables, and the SQL of the source of a message."""

    messages: str
    suppressed: str
    source: str


_TENANT = _Tables("telemetry_quarantined", "telemetry_quarantineflood", "coalesce(device_id, 0)")
_UNROUTED = _Tables("tenants_unroutedmessage", "tenants_unroutedflood", TOPIC_SOURCE)


@dataclass(frozen=True, slots=True)
class QuarantineLimits:
    """Rows last received before `before` are deleted, and rows beyond `size` bytes."""

    before: datetime
    size: int


def quarantine_limits(now: datetime) -> QuarantineLimits:
    """Return the limits of the settings."""
    days, megabytes = settings.QUARANTINE_DAYS, settings.QUARANTINE_MEGABYTES
    return QuarantineLimits(
        now - timedelta(days=days) if days else _NEVER_BEFORE,
        megabytes * 2**20 if megabytes else _NO_LIMIT,
    )


def apply_retention(*, now: datetime | None = None, seconds: float = _SECONDS) -> dict[str, int]:
    """Delete the rows of the current tenant's quarantine that are over the age or size limit; return the numbers."""
    return _apply(_TENANT, now or datetime.now(UTC), seconds)


def apply_unrouted_retention(*, now: datetime | None = None, seconds: float = _SECONDS) -> dict[str, int]:
    """Delete the unrouted messages that are over the age or size limit; return the numbers."""
    with schema_context("public"):
        return _apply(_UNROUTED, now or datetime.now(UTC), seconds)


def _apply(tables: _Tables, now: datetime, seconds: float) -> dict[str, int]:
    deadline = clock.monotonic() + seconds
    wanted = quarantine_limits(now)
    done = {
        "old": _delete_old(tables.messages, wanted.before, deadline),
        "too much": _delete_excess(tables, wanted.size, deadline),
    }
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {tables.suppressed} WHERE day < %s", [wanted.before.date()])  # noqa: S608 (our own names)
    return done


def _delete_old(table: str, before: datetime, deadline: float) -> int:
    deleted = 0
    while clock.monotonic() < deadline:
        count = _run_delete(table, _DELETE_OLD, [before, sorted(DEFERRED), _ROWS])
        deleted += count
        if count < _ROWS:
            break
    return deleted


def _run_delete(table: str, statement: str, parameters: list[Any]) -> int:
    """Delete rows, and name those of a tenant in its changes; return their number."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement.format(table=table), parameters)
        removed = [pk for (pk,) in cursor.fetchall()]
        if table == _TENANT.messages:
            note_removed(removed)
    return len(removed)


def _delete_excess(tables: _Tables, most: int, deadline: float) -> int:
    """Delete the oldest rows of the largest sources until the rest fits. PostgreSQL reuses the space."""
    table = tables.messages
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_total_relation_size(%s)", [table])
        if cursor.fetchone()[0] <= most:
            return 0
        cursor.execute(f"SELECT coalesce(sum({_SIZE}), 0) FROM {table}")  # noqa: S608 (our own names)
        over = int(cursor.fetchone()[0]) - most
    deleted = 0
    for which, reasons in _DELETE_ORDER:
        for chunk in chunks(_excess(tables, which, reasons, over), _ROWS):
            if clock.monotonic() >= deadline:
                return deleted
            _run_delete(table, _DELETE, [[pk for pk, _ in chunk]])
            deleted += len(chunk)
            over -= sum(size for _, size in chunk)
    return deleted


def _excess(tables: _Tables, which: str, reasons: list[str], over: int) -> list[tuple[int, int]]:
    """Return the rows (id, size) to delete so that `over` bytes become free, as far as these reasons have them."""
    if over <= 0:
        return []
    statement = _EXCESS.format(table=tables.messages, source=tables.source, size=_SIZE, which=which)
    with connection.cursor() as cursor:
        cursor.execute(statement, [reasons, over, _MOST_EXCESS])
        return [(pk, int(size)) for pk, size in cursor.fetchall()]
