"""Limits in the whole pipeline: refused messages, their counts, and the tenants that they do not affect."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from tenants.services.limits import set_limits
from tests.factories import Registered
from tests.payloads import topic, v1, v2

# So slow that nothing is refilled while a test runs.
SLOW = 0.001


@pytest.fixture
def ingest(live_db: None, tenant_a: Any, tenant_b: Any) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    redis = get_redis_connection("default")
    for key in redis.scan_iter("gwanje:limit*"):
        redis.delete(key)
    made = build_pipeline()
    yield made
    made.writer.close()
    for tenant in (tenant_a, tenant_b):
        set_limits(tenant, plan=None, **dict.fromkeys(_NAMES))


_NAMES = ("tenant_rate", "tenant_burst", "device_rate", "device_burst", "daily_quota", "max_payload")


def incoming(device: Registered, *payloads: bytes) -> list[Any]:
    from telemetry.services.pipeline.results import Incoming

    return [Incoming(topic(device), payload, datetime.now(UTC)) for payload in payloads]


def values(device: Registered, count: int, **options: Any) -> list[Any]:
    return incoming(device, *[v1(device, {"temp": n}, **options) for n in range(count)])


@pytest.fixture
def counted(tenant_a: Any, tenant_b: Any, ingest: Any) -> Callable[[Any], dict[str, Any]]:
    """What was added to a tenant's totals and hits since the test began."""
    from telemetry.models import IngestTotals, LimitHit

    def read(tenant: Any) -> dict[str, int]:
        with schema_context(tenant.schema_name):
            today = datetime.now(UTC).date()
            fields = ("received", "stored", "duplicates", "quarantined", "rate_limited")
            totals = IngestTotals.objects.filter(day=today).values(*fields).first() or dict.fromkeys(fields, 0)
            hits = LimitHit.objects.filter(day=today).values_list("limit", "device_id", "count")
            return dict(totals) | {f"{limit} of {device}": times for limit, device, times in hits}

    before = {tenant.pk: read(tenant) for tenant in (tenant_a, tenant_b)}

    def added(tenant: Any) -> dict[str, Any]:
        now = read(tenant)
        found = {name: value - before[tenant.pk].get(name, 0) for name, value in now.items()}
        return {name: value for name, value in found.items() if value}

    return added


def test_a_noisy_tenant_loses_its_own_messages_and_nobody_elses(
    ingest: Any, register: Any, tenant_a: Any, tenant_b: Any, counted: Any
) -> None:
    noisy, quiet = register(), register(tenant=tenant_b)
    set_limits(tenant_a, tenant_rate=SLOW, tenant_burst=5)
    set_limits(tenant_b, tenant_rate=SLOW, tenant_burst=5)
    mixed = [*values(noisy, 40), *values(quiet, 5)]
    result = ingest.process(mixed)
    assert len(result.to_acknowledge) == 45, "refused messages are acknowledged too"
    assert counted(tenant_a) == {"received": 40, "stored": 5, "rate_limited": 35, "tenant_rate of None": 35}
    assert counted(tenant_b) == {"received": 5, "stored": 5}


def test_a_noisy_device_loses_its_own_messages(ingest: Any, register: Any, tenant_a: Any, counted: Any) -> None:
    noisy, quiet = register(), register()
    set_limits(tenant_a, device_rate=SLOW, device_burst=3)
    ingest.process([*values(noisy, 10), *values(quiet, 3)])
    assert counted(tenant_a) == {
        "received": 13,
        "stored": 6,
        "rate_limited": 7,
        f"device_rate of {noisy.device.pk}": 7,
    }


def test_what_is_over_the_quota_is_quarantined(ingest: Any, register: Any, tenant_a: Any, counted: Any) -> None:
    from telemetry.models import Quarantined

    device = register()
    set_limits(tenant_a, daily_quota=2)
    ingest.process([*values(device, 5), *values(device, 3, ago=3600)])
    assert counted(tenant_a) == {"received": 8, "stored": 5, "quarantined": 3, "daily_quota of None": 3}
    with schema_context(tenant_a.schema_name):
        rows = Quarantined.objects.filter(device=device.device)
        assert {row.reason for row in rows} == {"quota_exceeded"}
        assert all("daily_quota of 2 messages a day" in row.detail for row in rows)


def test_a_forged_message_uses_up_nobodys_limit(ingest: Any, register: Any, tenant_a: Any, counted: Any) -> None:
    device = register()
    set_limits(tenant_a, tenant_rate=SLOW, tenant_burst=5, daily_quota=5)
    ingest.process([*values(device, 20, secret="not the device's"), *values(device, 5)])
    assert counted(tenant_a) == {"received": 25, "stored": 5, "quarantined": 20}


def test_a_message_above_the_tenants_size_is_too_large(ingest: Any, register: Any, tenant_a: Any, counted: Any) -> None:
    from telemetry.models import Quarantined

    device = register()
    set_limits(tenant_a, max_payload=400)
    ingest.process(incoming(device, v1(device, {"temp": 1}), v1(device, {"temp": 2}, note="x" * 400)))
    assert counted(tenant_a) == {"received": 2, "stored": 1, "quarantined": 1, "max_payload of None": 1}
    with schema_context(tenant_a.schema_name):
        assert "max_payload is 400" in Quarantined.objects.get(device=device.device).detail


def test_what_the_database_did_not_take_counts_once(
    ingest: Any, register: Any, tenant_a: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = register()
    set_limits(tenant_a, tenant_rate=SLOW, tenant_burst=5, device_rate=SLOW, device_burst=6, daily_quota=7)
    batch = values(device, 5)
    for _ in range(3):
        ingest.writer.connect().close()
        with monkeypatch.context() as patch:
            # The server is not where it was: a real connection fails.
            patch.setattr(ingest.writer, "_conninfo", "host=127.0.0.1 port=1")
            with pytest.raises(psycopg.OperationalError):
                ingest.process(batch)
    ingest.process(batch)
    assert counted(tenant_a) == {"received": 5, "stored": 5}


def test_a_message_over_a_limit_is_a_sign_of_life(ingest: Any, register: Any, tenant_a: Any, counted: Any) -> None:
    from devices.models import DeviceStatus

    first, second = register(), register()
    set_limits(tenant_a, tenant_rate=SLOW, tenant_burst=1)
    ingest.process([*values(first, 1), *incoming(second, v2(second, {"temp": 1}, seq=1))])
    ingest.tick(last=True)
    assert counted(tenant_a)["tenant_rate of None"] == 1
    with schema_context(tenant_a.schema_name):
        assert DeviceStatus.objects.get(device=second.device).status == "ONLINE"
