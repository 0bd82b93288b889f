"""Every tenant's counters for `/metrics`: what was ever received, and what became of it.

They are sums over what PostgreSQL keeps by day, so that they survive any restart, and only grow: what left the
quarantine to be judged again is counted as quarantined once and as received twice.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import psycopg
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from psycopg import sql

from tenants.database import conninfo

logger = logging.getLogger(__name__)

_FRESH_SECONDS = 10.0
# Schemas in one query: each costs a lock and some time to plan.
_AT_ONCE = 100
_SECONDS_MOST = 5
_LOCK_MS = 100

_TENANTS = """
SELECT t.slug, t.schema_name FROM public.tenants_tenant AS t
WHERE to_regclass(format('%I.telemetry_limithit', t.schema_name)) IS NOT NULL ORDER BY t.slug
"""
_OF_ONE = """
SELECT {schema}, NULL, coalesce(sum(received + replayed), 0)::bigint, coalesce(sum(stored), 0)::bigint,
    coalesce(sum(duplicates), 0)::bigint, coalesce(sum(quarantined + replayed), 0)::bigint,
    coalesce(sum(rate_limited), 0)::bigint FROM {totals}
UNION ALL SELECT {schema}, '', received, stored, duplicates, quarantined, rate_limited FROM {totals}
    WHERE day = (now() AT TIME ZONE 'UTC')::date
UNION ALL SELECT {schema}, "limit", sum(times)::bigint, 0, 0, 0, 0 FROM {hits} GROUP BY "limit"
"""
COUNTED = {
    "received": "Messages received.",
    "stored": "Messages stored.",
    "duplicates": "Messages that were stored before.",
    "quarantined": "Messages put into quarantine.",
    "rate_limited": "Messages over a rate: counted, not stored.",
}


@dataclass(slots=True)
class Counted:
    """A tenant's counters. `today` is of the day (UTC), `limits` are refusals by the limit's name."""

    totals: tuple[int, ...] = (0, 0, 0, 0, 0)  # as in COUNTED
    today: tuple[int, ...] = (0, 0, 0, 0, 0)  # likewise
    limits: dict[str, int] = field(default_factory=dict)


class TenantFigures:
    """The counters of all tenants, read again every few seconds at most. What cannot be read now stays as it was."""

    def __init__(self) -> None:
        self._known: dict[str, Counted] = {}  # by slug
        self._read_at = -_FRESH_SECONDS

    def by_tenant(self) -> dict[str, Counted]:
        """The counters by the tenant's slug."""
        if time.monotonic() - self._read_at >= _FRESH_SECONDS:
            self._read_at = time.monotonic()
            self._read()
        return self._known

    def collect(self) -> Iterable[Metric]:
        """The families of metrics."""
        families = [
            CounterMetricFamily(f"gwanje_tenant_{name}", text, labels=["tenant"]) for name, text in COUNTED.items()
        ]
        refused = CounterMetricFamily("gwanje_tenant_limit_refused", "Messages by limit.", labels=["tenant", "limit"])
        for slug, counted in self.by_tenant().items():
            for family, value in zip(families, counted.totals, strict=True):
                family.add_metric([slug], value)
            for limit, times in sorted(counted.limits.items()):
                refused.add_metric([slug, limit], times)
        return [*families, refused]

    def _read(self) -> None:
        try:
            with _connect() as own:
                slugs = {schema: slug for slug, schema in own.execute(_TENANTS).fetchall()}
                found = {schema: counted for chunk in _chunks(slugs) for schema, counted in _read_chunk(own, chunk)}
        except psycopg.Error as error:
            logger.warning("The tenants' counters are not read again: %s", error)
            return
        known = self._known
        self._known = {slug: found.get(schema) or known.get(slug, Counted()) for schema, slug in slugs.items()}


# One for the process, so that who looks at the console and who reads /metrics share what was read.
TENANT_FIGURES = TenantFigures()


def _connect() -> psycopg.Connection:
    """A connection of its own: its limits of time are not to hold for the request's, nor its schema."""
    options = f"-c statement_timeout={1000 * _SECONDS_MOST} -c lock_timeout={_LOCK_MS}"
    return psycopg.connect(conninfo(connect_timeout=3, options=options), autocommit=True)


def _chunks(schemas: Iterable[str]) -> Iterator[list[str]]:
    left = iter(schemas)
    while chunk := list(islice(left, _AT_ONCE)):
        yield chunk


def _read_chunk(own: psycopg.Connection, schemas: list[str]) -> Iterable[tuple[str, Counted]]:
    """The counters of these, in one query; one by one where one of them is locked. Those that stay so are left out."""
    try:
        return _ask(own, schemas).items()
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        if own.closed:
            raise
        if len(schemas) == 1:
            logger.info("The counters of %s cannot be read now: %s", schemas[0], error)
            return []
    return [found for schema in schemas for found in _read_chunk(own, [schema])]


def _ask(own: psycopg.Connection, schemas: list[str]) -> dict[str, Counted]:
    parts = [
        sql.SQL(_OF_ONE).format(
            schema=sql.Literal(schema),
            totals=sql.Identifier(schema, "telemetry_ingesttotals"),
            hits=sql.Identifier(schema, "telemetry_limithit"),
        )
        for schema in schemas
    ]
    found: dict[str, Counted] = {}
    for schema, limit, *numbers in own.execute(sql.SQL(" UNION ALL ").join(parts)).fetchall():
        counted = found.setdefault(schema, Counted())
        if limit is None:
            counted.totals = tuple(numbers)
        elif not limit:
            counted.today = tuple(numbers)
        else:
            counted.limits[limit] = numbers[0]
    return found
