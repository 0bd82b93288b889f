"""Rows that a batch updates beside its messages: late hours, signature upgrades, the day's totals and limits.

Every function may run inside a pipeline.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

import psycopg
from django.db import connection as django_connection
from psycopg import sql

from telemetry.services.pipeline.results import AcceptedItem, TenantResult
from telemetry.services.rollups.aggregation import mark_late

from . import contacts, omissions
from .message_rows import own_times
from .statements import per_schema, run

# The worker rolls an hour up long after this.
_SETTLED_AFTER = timedelta(seconds=60)
# The devices that a limit refused are known for this long; after that only the number of messages.
_DEVICES_DAYS = 90
_ADD_TOTALS = per_schema(
    "INSERT INTO {totals} AS t (day, received, stored, duplicates, quarantined, rate_limited, values_received,"
    " values_stored, values_quarantined, truncated)"
    " VALUES ((now() AT TIME ZONE 'UTC')::date, $1, $2, $3, $4, $5, $6, $7, $8, $9)"
    " ON CONFLICT (day) DO UPDATE SET received = t.received + EXCLUDED.received,"
    " stored = t.stored + EXCLUDED.stored, duplicates = t.duplicates + EXCLUDED.duplicates,"
    " quarantined = t.quarantined + EXCLUDED.quarantined, rate_limited = t.rate_limited + EXCLUDED.rate_limited,"
    " values_received = t.values_received + EXCLUDED.values_received,"
    " values_stored = t.values_stored + EXCLUDED.values_stored,"
    " values_quarantined = t.values_quarantined + EXCLUDED.values_quarantined,"
    " truncated = t.truncated + EXCLUDED.truncated",
    totals="telemetry_ingesttotals",
)
_MERGE_LIMIT_COUNTS = """
WITH gone AS (
    DELETE FROM telemetry_limithit WHERE day < %s AND device_id IS NOT NULL RETURNING day, "limit", times
)
INSERT INTO telemetry_limithit AS h (day, "limit", device_id, times)
SELECT day, "limit", NULL, sum(times) FROM gone GROUP BY day, "limit"
ON CONFLICT (day, "limit", device_id) DO UPDATE SET times = h.times + EXCLUDED.times
"""


def mark_late_hours(connection: psycopg.Connection, schema: str, stored: Collection[AcceptedItem]) -> None:
    """Mark the hours of readings that arrived after their hour was rolled up, so that they are rolled up again.

    Must run after the readings were inserted, in their transaction.
    """
    settled = datetime.now(UTC) - _SETTLED_AFTER
    late = {(item.spec.device_id, item.result.time) for item in stored if item.result.time < settled}
    for item in stored:
        if item.result.is_timed:
            late |= {(item.spec.device_id, moment) for moment in own_times(item.result) if moment < settled}
    if late:
        mark_late(connection, schema, late)


def raise_min_signature_versions(connection: psycopg.Connection, schema: str, stored: Iterable[AcceptedItem]) -> None:
    """Reject version 1 from now on for devices that sent version 2. Sends a statement only for a device's first."""
    upgraded_devices = {
        item.spec.device_id for item in stored if item.result.signature == 2 and item.spec.min_signature_version < 2
    }
    if upgraded_devices:
        connection.execute(
            sql.SQL("UPDATE {} SET signature_floor = 2 WHERE id = ANY(%s) AND signature_floor < 2").format(
                sql.Identifier(schema, "devices_device")
            ),
            [sorted(upgraded_devices)],
        )


def record_unusual(connection: psycopg.Connection, result: TenantResult) -> None:
    """Record for the devices that messages were late or refused, or had more values than are stored; most have none."""
    if result.quarantined or any(item.result.late for item in result.stored):
        contacts.record(connection, result)
    if any(item.result.omitted for item in result.stored):
        omissions.record(connection, result)


def add_totals(connection: psycopg.Connection, result: TenantResult) -> None:
    """Add a tenant's result to the day's totals: received = stored + duplicates + quarantined + rate limited.

    The same for values: received = stored + quarantined.

    The day's row is locked until the end of the transaction: call this last, and for tenants in one order.
    """
    counts = [len(result.stored), len(result.duplicates), len(result.quarantined)]
    counts.append(sum(item.count for item in result.limited))
    if refused := _count_by_limit(result):
        add_limit_counts(connection, result.schema, refused)
    # A row of the quarantine counts once, however many values of its metric the message has, some stored before.
    extra = sum([len(item.result.measurements) - 1 for item in result.replayed_values])
    values = [_count_values(result), len(result.readings) - extra, len(result.refused_values)]
    truncated = len([item for item in result.stored if item.result.omitted])
    run(connection, _ADD_TOTALS(result.schema), [sum(counts), *counts, *values, truncated])


def add_limited(connection: psycopg.Connection, schema: str, counts: Mapping[tuple[str, int | None], int]) -> None:
    """Add messages that were over limits, by (limit's name, device id or None), to the day's totals and limits."""
    add_limit_counts(connection, schema, counts)
    total = sum(counts.values())
    run(connection, _ADD_TOTALS(schema), [total, 0, 0, 0, total, 0, 0, 0, 0])


def _count_values(result: TenantResult) -> int:
    """Return the number of values in the stored messages, valid or not, and of the rows that are replayed alone."""
    stored = sum([len(item.result.measurements) + len(item.result.refused) for item in result.stored])
    return stored + len(result.replayed_values)


def _count_by_limit(result: TenantResult) -> Counter[tuple[str, int | None]]:
    """Return the number of refused messages by (limit, device id where the limit is the device's own)."""
    counts: Counter[tuple[str, int | None]] = Counter()
    for item in result.limited:
        counts[item.limit, item.device_id] += item.count
    counts.update((item.result.limit, None) for item in result.quarantined if item.result.limit)
    return counts


def add_limit_counts(connection: psycopg.Connection, schema: str, counts: Mapping[tuple[str, int | None], int]) -> None:
    """Add to the day's refused messages by (limit's name, device id or None).

    Its rows are locked in one order until the end of the transaction: call it next to the totals, in their order.
    """
    if not counts:
        return
    rows = sorted(((name, device_id, times) for (name, device_id), times in counts.items()), key=repr)
    columns = [list(column) for column in zip(*rows, strict=True)]
    connection.execute(
        sql.SQL(
            'INSERT INTO {} AS h (day, "limit", device_id, times)'
            " SELECT (now() AT TIME ZONE 'UTC')::date, * FROM unnest(%s::text[], %s::bigint[], %s::bigint[])"
            ' ON CONFLICT (day, "limit", device_id) DO UPDATE SET times = h.times + EXCLUDED.times'
        ).format(sql.Identifier(schema, "telemetry_limithit")),
        columns,
    )


def limit_counts_due_before() -> date:
    """Return the day before which the devices' limit counts are due to be merged."""
    return datetime.now(UTC).date() - timedelta(days=_DEVICES_DAYS)


def merge_limit_counts() -> int:
    """Merge the current tenant's old limit counts of devices in one statement; return the number of changed sums.

    Every day's sum stays the same, so that counters derived from it do not shrink.
    """
    with django_connection.cursor() as cursor:
        cursor.execute(_MERGE_LIMIT_COUNTS, [limit_counts_due_before()])
        return int(cursor.rowcount)
