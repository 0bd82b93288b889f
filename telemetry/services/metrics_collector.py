"""The collector of every tenant's message counters for `/metrics`.

The counters are sums of the daily totals in PostgreSQL, so they survive restarts and only grow: a replayed message
counts as quarantined once and as received twice.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import psycopg
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from psycopg import sql

from tenants.infrastructure.chunks import chunks
from tenants.infrastructure.database import conninfo
from tenants.infrastructure.sql_errors import ErrorKind, kind_of

logger = logging.getLogger(__name__)

_FRESH_SECONDS = 15.0
# Schemas in one query: each costs a lock and some time to plan.
_SCHEMAS_PER_QUERY = 100
_TIMEOUT_SECONDS = 5
_LOCK_TIMEOUT_MS = 100

_TENANTS = """
SELECT t.slug, t.schema_name FROM public.tenants_tenant AS t
WHERE to_regclass(format('%I.telemetry_limithit', t.schema_name)) IS NOT NULL ORDER BY t.slug
"""
# The first of the recent days, in days before today. Older sums do not change: a replay moves counts to `replayed` of
# the same day, and merged limit counts have the same sum.
_RECENT_DAYS = 1
_TENANT_COUNTERS = """
SELECT {schema}, NULL, coalesce(sum(received + replayed), 0)::bigint, coalesce(sum(stored), 0)::bigint,
    coalesce(sum(duplicates), 0)::bigint, coalesce(sum(quarantined + replayed), 0)::bigint,
    coalesce(sum(rate_limited), 0)::bigint FROM {totals} WHERE day {days}
UNION ALL SELECT {schema}, "limit", sum(times)::bigint, 0, 0, 0, 0 FROM {hits} WHERE day {days} GROUP BY "limit"
"""
_TODAY = """
UNION ALL SELECT {schema}, '', received, stored, duplicates, quarantined, rate_limited FROM {totals}
    WHERE day = (now() AT TIME ZONE 'UTC')::date
"""
COUNTERS = {
    "received": "Messages received.",
    "stored": "Messages stored.",
    "duplicates": "Messages that were stored before.",
    "quarantined": "Messages put into quarantine.",
    "rate_limited": "Messages over a rate: counted, not stored.",
}


@dataclass(slots=True)
class TenantCounters:
    """A tenant's counters. `today` is of the day (UTC), `limits` are refusals by the limit's name."""

    totals: tuple[int, ...] = (0, 0, 0, 0, 0)  # as in COUNTED
    today: tuple[int, ...] = (0, 0, 0, 0, 0)  # likewise
    limits: dict[str, int] = field(default_factory=dict)

    def plus(self, newer: "TenantCounters") -> "TenantCounters":
        """Return the sum of both; `today` is the newer one's."""
        names = self.limits.keys() | newer.limits.keys()
        return TenantCounters(
            tuple(old + new for old, new in zip(self.totals, newer.totals, strict=True)),
            newer.today,
            {name: self.limits.get(name, 0) + newer.limits.get(name, 0) for name in names},
        )


class TenantMetricsCollector:
    """The counters of all tenants, read every few seconds at most. Unreadable counters keep their last value."""

    def __init__(self) -> None:
        self._known: dict[str, TenantCounters] = {}  # by slug
        self._old: dict[str, TenantCounters] = {}  # by schema: of days before `_recent`
        self._recent: date | None = None
        self._read_at = -_FRESH_SECONDS
        self._reading = threading.Lock()
        self._own: psycopg.Connection | None = None

    def by_tenant(self) -> dict[str, TenantCounters]:
        """Return the counters by the tenant's slug."""
        if time.monotonic() - self._read_at >= _FRESH_SECONDS and self._reading.acquire(blocking=not self._known):
            try:
                if time.monotonic() - self._read_at >= _FRESH_SECONDS:
                    self._read_at = time.monotonic()
                    self._read()
            finally:
                self._reading.release()
        return self._known

    def collect(self) -> Iterable[Metric]:
        """Return the Prometheus metric families."""
        families = [
            CounterMetricFamily(f"gwanje_tenant_{name}", text, labels=["tenant"]) for name, text in COUNTERS.items()
        ]
        refused = CounterMetricFamily("gwanje_tenant_limit_refused", "Messages by limit.", labels=["tenant", "limit"])
        for slug, counted in self.by_tenant().items():
            for family, value in zip(families, counted.totals, strict=True):
                family.add_metric([slug], value)
            for limit, times in sorted(counted.limits.items()):
                refused.add_metric([slug, limit], times)
        return [*families, refused]

    def _read(self) -> None:
        recent = datetime.now(UTC).date() - timedelta(days=_RECENT_DAYS)
        try:
            own = self._connect()
            slugs = {schema: slug for slug, schema in own.execute(_TENANTS).fetchall()}
            self._read_old(own, slugs, recent)
            found = {
                schema: counted
                for chunk in chunks((schema for schema in slugs if schema in self._old), _SCHEMAS_PER_QUERY)
                for schema, counted in _read_chunk(own, chunk, ">=", recent)
            }
        except psycopg.Error as error:
            logger.warning("The tenants' counters cannot be read: %s", error)
            return
        known = self._known
        self._known = {
            slug: self._old[schema].plus(found[schema]) if schema in found else known.get(slug, TenantCounters())
            for schema, slug in slugs.items()
        }

    def _connect(self) -> psycopg.Connection:
        """Return the collector's own connection. It stays open: a new one would look up every tenant's tables again.

        Its time limits must not apply to requests, and their search path must not apply to it.
        """
        if self._own is None or self._own.closed:
            options = f"-c jit=off -c statement_timeout={1000 * _TIMEOUT_SECONDS} -c lock_timeout={_LOCK_TIMEOUT_MS}"
            keep = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
            text = conninfo(connect_timeout=3, application_name="gwanje-metrics", options=options, **keep)
            self._own = psycopg.connect(text, autocommit=True)
        return self._own

    def _read_old(self, own: psycopg.Connection, schemas: Collection[str], recent: date) -> None:
        """Read the counters of past days: once a day, and for new tenants."""
        if self._recent != recent:
            self._old, self._recent = {}, recent
        for chunk in chunks((schema for schema in schemas if schema not in self._old), _SCHEMAS_PER_QUERY):
            self._old |= dict(_read_chunk(own, chunk, "<", recent))


# One for the process: the console and /metrics share its counters.
TENANT_METRICS = TenantMetricsCollector()


def _read_chunk(
    own: psycopg.Connection, schemas: list[str], comparison: str, day: date
) -> Iterable[tuple[str, TenantCounters]]:
    """Return the counters of the schemas in one query; schema by schema when one of them is locked.

    Schemas that stay locked are left out.
    """
    try:
        return _query(own, schemas, comparison, day).items()
    except psycopg.Error as error:
        if own.closed or kind_of(error) is ErrorKind.SERVER:
            raise
        if len(schemas) == 1:
            logger.info("The counters of %s cannot be read now: %s", schemas[0], error)
            return []
    return [found for schema in schemas for found in _read_chunk(own, [schema], comparison, day)]


def _query(own: psycopg.Connection, schemas: list[str], comparison: str, day: date) -> dict[str, TenantCounters]:
    days = sql.SQL("{} {}").format(sql.SQL("<" if comparison == "<" else ">="), sql.Literal(day))
    text = sql.SQL(_TENANT_COUNTERS if comparison == "<" else _TENANT_COUNTERS + _TODAY)
    parts = [
        text.format(
            schema=sql.Literal(schema),
            totals=sql.Identifier(schema, "telemetry_ingesttotals"),
            hits=sql.Identifier(schema, "telemetry_limithit"),
            days=days,
        )
        for schema in schemas
    ]
    found: dict[str, TenantCounters] = {}
    for schema, limit, *numbers in own.execute(sql.SQL(" UNION ALL ").join(parts)).fetchall():
        counted = found.setdefault(schema, TenantCounters())
        if limit is None:
            counted.totals = tuple(numbers)
        elif not limit:
            counted.today = tuple(numbers)
        else:
            counted.limits[limit] = numbers[0]
    return found
