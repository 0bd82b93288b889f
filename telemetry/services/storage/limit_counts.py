"""How many messages each limit refused on each day, in the tenant's schema."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import psycopg
from django.db import connection as django_connection
from psycopg import sql

# For so long it is known which devices a limit refused; after that only how many messages.
_DEVICES_DAYS = 90
_FOLD = """
WITH gone AS (
    DELETE FROM telemetry_limithit WHERE day < %s AND device_id IS NOT NULL RETURNING day, "limit", times
)
INSERT INTO telemetry_limithit AS h (day, "limit", device_id, times)
SELECT day, "limit", NULL, sum(times) FROM gone GROUP BY day, "limit"
ON CONFLICT (day, "limit", device_id) DO UPDATE SET times = h.times + EXCLUDED.times
"""


def count_refused(connection: psycopg.Connection, schema: str, hits: Mapping[tuple[str, int | None], int]) -> None:
    """Add to the day's counts, by (limit's name, device id or None). Sends one statement, also in a pipeline.

    Its rows are locked in one order until the end of the transaction: send it next to the totals, in their order.
    """
    if not hits:
        return
    rows = sorted(((name, device_id, times) for (name, device_id), times in hits.items()), key=repr)
    columns = [list(column) for column in zip(*rows, strict=True)]
    connection.execute(
        sql.SQL(
            'INSERT INTO {} AS h (day, "limit", device_id, times)'
            " SELECT (now() AT TIME ZONE 'UTC')::date, * FROM unnest(%s::text[], %s::bigint[], %s::bigint[])"
            ' ON CONFLICT (day, "limit", device_id) DO UPDATE SET times = h.times + EXCLUDED.times'
        ).format(sql.Identifier(schema, "telemetry_limithit")),
        columns,
    )


def due_before() -> date:
    """Counts of devices of days before this are to be summed up."""
    return datetime.now(UTC).date() - timedelta(days=_DEVICES_DAYS)


def fold() -> int:
    """Sum up the current tenant's old counts of devices, in one statement. Returns how many sums were touched.

    Every day's sum stays what it was, so that counters made of it do not shrink.
    """
    with django_connection.cursor() as cursor:
        cursor.execute(_FOLD, [due_before()])
        return int(cursor.rowcount)
