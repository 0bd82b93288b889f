"""Retention of telemetry by the tenant's settings: it drops whole partitions and deletes old rows of the default ones.

A row that is already too old on arrival is stored in a default partition, and deleted by the next run.
"""

import logging
import time as clock
from datetime import UTC, datetime, timedelta

from django.db import connection
from redis.exceptions import RedisError

from telemetry.models import RetentionSettings
from telemetry.services.latest import values
from telemetry.services.rollups import aggregation, partitions
from telemetry.services.work_lock import WorkLockBusy, locked_step
from tenants.infrastructure.database import current_schema

logger = logging.getLogger(__name__)

_ROWS = 10_000
_AHEAD = timedelta(days=3)
_MAX_RANGES = 1000

# The last change of each generation that is about to be removed: earlier cursors are refused from then on.
_MARK_REMOVED = """
UPDATE telemetry_changegeneration AS g SET removed_transaction = r.transaction, removed_part = r.part
FROM telemetry_changegeneration AS e CROSS JOIN LATERAL (
    SELECT transaction, part FROM {table} WHERE generation = e.id AND stored_at < %s
    ORDER BY transaction DESC, part DESC LIMIT 1
) AS r
WHERE g.id = e.id
    AND (g.removed_transaction IS NULL OR (g.removed_transaction, g.removed_part) < (r.transaction, r.part))
"""
_DELETE = "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {column} < %s LIMIT %s))"
# Fills the gaps up to the first range that is kept; their sequence numbers then count as seen.
_COMPACT_SEQUENCES = """
UPDATE telemetry_devicesequence SET seen = seen + int8multirange(int8range(lower(seen), (
    SELECT upper(r) FROM unnest(seen) AS r ORDER BY r OFFSET (SELECT count(*) - %(most)s FROM unnest(seen)) LIMIT 1
))) WHERE (SELECT count(*) FROM unnest(seen)) > %(most)s
"""


def apply_retention(*, now: datetime | None = None, seconds: float = 120.0) -> dict[str, int]:
    """Apply the current tenant's retention, create the next month's partitions, and compact sequence numbers.

    Returns the number of partitions dropped, rows deleted and boots compacted. The next run does what exceeds the
    time, and drops partitions that a query is reading.
    """
    now = now or datetime.now(UTC)
    deadline = clock.monotonic() + seconds
    wanted = RetentionSettings.current()
    done = {"dropped": 0, "deleted": 0, "compacted": compact_sequences()}
    _create_next_month(now)
    if wanted.messages_months is not None:
        month = partitions.month_before(now, wanted.messages_months)
        _drop_before(partitions.MESSAGES, "time", month, done, deadline)
        _drop_changes(month, done, deadline)
    if wanted.readings_months is not None:
        _drop_readings(partitions.month_before(now, wanted.readings_months), now, done, deadline)
    if wanted.rollups_months is not None:
        month = partitions.month_before(now, wanted.rollups_months)
        _drop_before(partitions.HOURS, "hour", month, done, deadline)
        done["deleted"] += _delete("telemetry_readingday", "day", partitions.month_bounds(month)[0], deadline)
    return done


def compact_sequences(most: int = _MAX_RANGES) -> int:
    """Fill the oldest gaps of boots with more than `most` ranges of sequence numbers; return the number of boots."""
    with connection.cursor() as cursor:
        cursor.execute(_COMPACT_SEQUENCES, {"most": most})
        return int(cursor.rowcount)


def _drop_readings(first: partitions.Month, now: datetime, done: dict[str, int], deadline: float) -> None:
    """Drop older readings, packed or not, and newest values. Their rollups stay, and must be complete."""
    cutoff = partitions.month_bounds(first)[0]
    aggregation.roll_up(now=now, seconds=max(0.0, deadline - clock.monotonic()))
    with locked_step() as (cursor, known):
        if known.rolled_until is None or known.rolled_until < cutoff:
            logger.warning("Readings before %s are kept until they are rolled up", cutoff)
            return
        # From now on queries read their hours from the rollups alone.
        cursor.execute("UPDATE telemetry_rollupstate SET readings_from = greatest(readings_from, %s)", [cutoff])
    for table, column in ((partitions.READINGS, "time"), (partitions.PACKED, "day")):
        _drop_before(table, column, first, done, deadline)
    _delete("telemetry_latest", "time", cutoff, deadline)
    try:
        values.forget_before(cutoff)
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): newest values before %s stay until the next run", error, cutoff)


def _drop_changes(first: partitions.Month, done: dict[str, int], deadline: float) -> None:
    """Drop older changes; first note where they ended, so that a reader behind that gets an error."""
    cutoff = partitions.month_bounds(first)[0]
    with locked_step() as (cursor, _):
        cursor.execute(_MARK_REMOVED.format(table=partitions.CHANGES), [cutoff])
    _drop_before(partitions.CHANGES, "stored_at", first, done, deadline)


def _drop_before(table: str, column: str, first: partitions.Month, done: dict[str, int], deadline: float) -> None:
    for month, name in partitions.month_partitions(connection.connection, current_schema(), table).items():
        if month < first:
            try:
                with locked_step(lock_timeout="500ms") as (cursor, _):
                    cursor.execute(f"DROP TABLE {connection.ops.quote_name(name)}")
                done["dropped"] += 1
            except WorkLockBusy:
                logger.info("A query reads %s; a later run drops it", name)
    done["deleted"] += _delete(f"{table}_default", column, partitions.month_bounds(first)[0], deadline)


def _delete(table: str, column: str, before: datetime, deadline: float) -> int:
    """Delete the older rows in batches."""
    deleted = 0
    statement = _DELETE.format(table=table, column=column)
    while clock.monotonic() < deadline:
        with locked_step() as (cursor, _):
            cursor.execute(statement, [before, _ROWS])
            deleted += cursor.rowcount
            if cursor.rowcount < _ROWS:
                break
    return deleted


def _create_next_month(now: datetime) -> None:
    """Create the next month's partitions before its first row would have to wait for them."""
    following = now + _AHEAD
    month = following.year, following.month
    if month != (now.year, now.month):
        connection.ensure_connection()
        tables = (*partitions.INGEST_TABLES, partitions.HOURS, partitions.CHANGES)
        partitions.create_partitions(connection.connection, current_schema(), month, tables, lock_timeout="500ms")
