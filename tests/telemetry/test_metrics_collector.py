"""The tenants' counters at /metrics."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest
from django_tenants.utils import schema_context
from prometheus_client import CollectorRegistry, generate_latest
from psycopg import sql

from tenants.infrastructure.database import conninfo

LONG_AGO = date(2001, 1, 1)


@pytest.fixture
def counted(live_db: None, tenant_a: Any, tenant_b: Any) -> Iterator[None]:
    """A day of long ago in both tenants, with the same limits' names."""
    from telemetry.models import IngestTotals, LimitHit

    for number, tenant in enumerate((tenant_a, tenant_b)):
        with schema_context(tenant.schema_name):
            IngestTotals.objects.create(
                day=LONG_AGO, received=100 + number, stored=90 + number, duplicates=1, quarantined=5, rate_limited=4
            )
            LimitHit.objects.create(day=LONG_AGO, limit="tenant_rate", count=3 + number)
            LimitHit.objects.create(day=LONG_AGO, limit="device_rate", device_id=1, count=1)
            LimitHit.objects.create(day=LONG_AGO, limit="device_rate", device_id=2, count=1)
    yield
    for tenant in (tenant_a, tenant_b):
        with schema_context(tenant.schema_name):
            IngestTotals.objects.filter(day=LONG_AGO).delete()
            LimitHit.objects.filter(day=LONG_AGO).delete()


def read(figures: Any) -> dict[str, float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(figures)
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def fresh() -> dict[str, float]:
    from telemetry.services.metrics_collector import TenantMetricsCollector

    return read(TenantMetricsCollector())


def test_every_tenants_counters_are_sums_over_all_days(counted: None, tenant_a: Any, tenant_b: Any) -> None:
    from telemetry.models import IngestTotals, LimitHit

    found = fresh()
    for tenant in (tenant_a, tenant_b):
        with schema_context(tenant.schema_name):
            stored = sum(IngestTotals.objects.values_list("stored", flat=True))
            of_devices = sum(LimitHit.objects.filter(limit="device_rate").values_list("count", flat=True))
        assert found[f'gwanje_tenant_stored_total{{tenant="{tenant.slug}"}}'] == stored
        refused = f'gwanje_tenant_limit_refused_total{{limit="device_rate",tenant="{tenant.slug}"}}'
        assert found[refused] == of_devices
        counters = {
            name: found[f'gwanje_tenant_{name}_total{{tenant="{tenant.slug}"}}']
            for name in ("received", "stored", "duplicates", "quarantined", "rate_limited")
        }
        received = counters.pop("received")
        assert received == sum(counters.values()), "nothing is lost"


def test_counters_only_grow_when_the_quarantine_is_replayed(counted: None, tenant_a: Any) -> None:
    from telemetry.models import IngestTotals

    before = fresh()
    with schema_context(tenant_a.schema_name):
        day = IngestTotals.objects.get(day=LONG_AGO)
        day.received, day.quarantined, day.replayed = day.received - 5, 0, 5
        day.save()
        day.received, day.stored = day.received + 5, day.stored + 5
        day.save()
    after = fresh()
    changed = {name: after[name] - before[name] for name in after if after[name] != before.get(name)}
    assert changed == {f'gwanje_tenant_{name}_total{{tenant="{tenant_a.slug}"}}': 5 for name in ("received", "stored")}


def test_a_tenant_whose_tables_are_locked_keeps_its_counters(counted: None, tenant_a: Any, tenant_b: Any) -> None:
    from telemetry.models import IngestTotals
    from telemetry.services.metrics_collector import TenantMetricsCollector

    figures = TenantMetricsCollector()
    before = read(figures)
    with schema_context(tenant_b.schema_name):
        today, _ = IngestTotals.objects.get_or_create(day=datetime.now(UTC).date())
        today.received, today.duplicates = today.received + 1, today.duplicates + 1
        today.save()
    with psycopg.connect(conninfo()) as other:
        table = sql.Identifier(tenant_a.schema_name, "telemetry_ingesttotals")
        other.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
        figures._read_at -= 60
        after = read(figures)
    assert {name for name in after if after[name] != before[name]} == {
        f'gwanje_tenant_{name}_total{{tenant="{tenant_b.slug}"}}' for name in ("duplicates", "received")
    }
    assert after[f'gwanje_tenant_stored_total{{tenant="{tenant_a.slug}"}}'] > 0
