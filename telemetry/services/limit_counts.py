"""How many messages each limit refused on each day, in the tenant's schema."""

from collections.abc import Mapping

import psycopg
from psycopg import sql


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
