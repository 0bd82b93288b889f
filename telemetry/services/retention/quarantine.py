"""Retention of the quarantine by age and size: it deletes the oldest rows first, in batches.

Deferred messages wait for their key and are never deleted; messages over a quota are deleted last.
"""

import time as clock
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django_tenants.utils import schema_context

from telemetry.models.quarantine import DEFERRED, DELETED_LAST

_ROWS = 2000
_SECONDS = 120.0
_NEVER_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
_NO_LIMIT = 2**62
# The approximate size of a row beside its texts, with the indexes.
_ROW_BYTES = 250

_SIZE = f"pg_column_size(payload) + pg_column_size(topic) + pg_column_size(detail) + {_ROW_BYTES}"
_DELETE_OLD = (
    "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE last_received_at < %s"
    " AND reason <> ALL(%s) ORDER BY last_received_at LIMIT %s)"
)
_DELETE_OLDEST = (
    "WITH oldest AS (SELECT id, {size} AS size, last_received_at FROM {table} WHERE {which}"
    " ORDER BY last_received_at, id LIMIT %s),"
    " summed AS (SELECT id, size, sum(size) OVER (ORDER BY last_received_at, id) - size AS before FROM oldest),"
    " gone AS (DELETE FROM {table} WHERE id IN (SELECT id FROM summed WHERE before < %s) RETURNING {size} AS size)"
    " SELECT count(*), coalesce(sum(size), 0) FROM gone"
)
_DELETE_ORDER = (
    ("reason <> ALL(%s)", sorted(DEFERRED | DELETED_LAST)),
    ("reason = ANY(%s)", sorted(DELETED_LAST)),
)


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
    return _apply("telemetry_quarantined", "telemetry_quarantineflood", now or datetime.now(UTC), seconds)


def apply_unrouted_retention(*, now: datetime | None = None, seconds: float = _SECONDS) -> dict[str, int]:
    """Delete the unrouted messages that are over the age or size limit; return the numbers."""
    with schema_context("public"):
        return _apply("tenants_unroutedmessage", "tenants_unroutedflood", now or datetime.now(UTC), seconds)


def _apply(table: str, suppressed: str, now: datetime, seconds: float) -> dict[str, int]:
    deadline = clock.monotonic() + seconds
    wanted = quarantine_limits(now)
    done = {
        "old": _delete_old(table, wanted.before, deadline),
        "too much": _delete_excess(table, wanted.size, deadline),
    }
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {suppressed} WHERE day < %s", [wanted.before.date()])  # noqa: S608 (our own names)
    return done


def _delete_old(table: str, before: datetime, deadline: float) -> int:
    deleted = 0
    while clock.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(_DELETE_OLD.format(table=table), [before, sorted(DEFERRED), _ROWS])
            deleted += cursor.rowcount
            if cursor.rowcount < _ROWS:
                break
    return deleted


def _delete_excess(table: str, most: int, deadline: float) -> int:
    """Delete the oldest rows until the rest fits. PostgreSQL reuses the space."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_total_relation_size(%s)", [table])
        if cursor.fetchone()[0] <= most:
            return 0
        cursor.execute(f"SELECT coalesce(sum({_SIZE}), 0) FROM {table}")  # noqa: S608 (our own names)
        over = int(cursor.fetchone()[0]) - most
    deleted = 0
    for which, reasons in _DELETE_ORDER:
        statement = _DELETE_OLDEST.format(table=table, size=_SIZE, which=which)
        while over > 0 and clock.monotonic() < deadline:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement, [reasons, _ROWS, over])
                count, size = cursor.fetchone()
            if not count:
                break
            deleted += count
            over -= int(size)
    return deleted
