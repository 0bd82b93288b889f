"""The day's totals: received = stored + duplicates + quarantined + rate limited."""

import psycopg

from .statements import per_schema, run
from .types import Outcome

_ADD = per_schema(
    "INSERT INTO {totals} AS t (day, received, stored, duplicates, quarantined, rate_limited)"
    " VALUES ((now() AT TIME ZONE 'UTC')::date, $1, $2, $3, $4, $5)"
    " ON CONFLICT (day) DO UPDATE SET received = t.received + EXCLUDED.received,"
    " stored = t.stored + EXCLUDED.stored, duplicates = t.duplicates + EXCLUDED.duplicates,"
    " quarantined = t.quarantined + EXCLUDED.quarantined, rate_limited = t.rate_limited + EXCLUDED.rate_limited",
    totals="telemetry_ingesttotals",
)


def add(connection: psycopg.Connection, schema: str, outcome: Outcome) -> None:
    """Add what became of a tenant's messages. Sends one statement, also in a pipeline.

    The day's row is locked until the end of the transaction: send this last, and tenants in one order.
    """
    counts = [len(outcome.stored), len(outcome.duplicates), len(outcome.quarantined), outcome.limited]
    run(connection, _ADD(schema), [sum(counts), *counts])
