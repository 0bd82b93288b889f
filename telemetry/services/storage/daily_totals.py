"""The day's totals: received = stored + duplicates + quarantined + rate limited."""

from collections import Counter

import psycopg

from telemetry.services.pipeline.results import Outcome

from .limit_counts import count_refused
from .statements import per_schema, run

_ADD = per_schema(
    "INSERT INTO {totals} AS t (day, received, stored, duplicates, quarantined, rate_limited)"
    " VALUES ((now() AT TIME ZONE 'UTC')::date, $1, $2, $3, $4, $5)"
    " ON CONFLICT (day) DO UPDATE SET received = t.received + EXCLUDED.received,"
    " stored = t.stored + EXCLUDED.stored, duplicates = t.duplicates + EXCLUDED.duplicates,"
    " quarantined = t.quarantined + EXCLUDED.quarantined, rate_limited = t.rate_limited + EXCLUDED.rate_limited",
    totals="telemetry_ingesttotals",
)


def add(connection: psycopg.Connection, schema: str, outcome: Outcome) -> None:
    """Add what became of a tenant's messages, and which limits they met. Sends a statement or two, also in a pipeline.

    The day's row is locked until the end of the transaction: send this last, and tenants in one order.
    """
    counts = [len(outcome.stored), len(outcome.duplicates), len(outcome.quarantined), len(outcome.limited)]
    if hits := _hits(outcome):
        count_refused(connection, schema, hits)
    run(connection, _ADD(schema), [sum(counts), *counts])


def _hits(outcome: Outcome) -> Counter[tuple[str, int | None]]:
    """How many messages each limit refused, by its name and, where it is a device's own, the device."""
    hits = Counter((item.limit, item.device_id) for item in outcome.limited)
    hits.update((item.verdict.limit, None) for item in outcome.quarantined if item.verdict.limit)
    return hits
