"""The day's totals: received = stored + duplicates + quarantined + rate limited."""

import psycopg
from psycopg import sql

from .types import Outcome


def add(connection: psycopg.Connection, schema: str, outcome: Outcome) -> None:
    """Add what became of a tenant's messages. Sends one statement, also in a pipeline.

    The day's row is locked until the end of the transaction: send this last, and tenants in one order.
    """
    counts = [len(outcome.stored), len(outcome.duplicates), len(outcome.quarantined), outcome.limited]
    connection.execute(
        sql.SQL(
            "INSERT INTO {} AS t (day, received, stored, duplicates, quarantined, rate_limited)"
            " VALUES ((now() AT TIME ZONE 'UTC')::date, %s, %s, %s, %s, %s)"
            " ON CONFLICT (day) DO UPDATE SET received = t.received + EXCLUDED.received,"
            " stored = t.stored + EXCLUDED.stored, duplicates = t.duplicates + EXCLUDED.duplicates,"
            " quarantined = t.quarantined + EXCLUDED.quarantined,"
            " rate_limited = t.rate_limited + EXCLUDED.rate_limited"
        ).format(sql.Identifier(schema, "telemetry_ingesttotals")),
        [sum(counts), *counts],
    )
