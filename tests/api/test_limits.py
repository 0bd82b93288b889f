"""A tenant's limits in its API."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.services.specs.loader import tenant_spec
from telemetry.models import LimitHit
from telemetry.services.limits.limiter import Limiter
from tenants.models import Tenant
from tenants.services.limits import set_limits
from tenants.services.quotas import QuotaName
from tests.factories import issue_key, make_device
from tests.telemetry.test_limits import Fleet

from .client import T0, Api, problems


def use_up(tenant: Any, count: int) -> None:
    """Have a listener admit so many messages of the tenant."""
    fleet = Fleet(tenant_spec(Tenant.objects.get(pk=tenant.pk)).limits, tenant.schema_name)
    limiter = Limiter()
    limiter.admit(fleet.messages(count))


def by_name(api: Api) -> dict[str, dict[str, Any]]:
    return {row.pop("name"): row for row in api.get("limits/").json()["results"]}


def forget(tenant: Any) -> None:
    redis = get_redis_connection("default")
    for key in redis.scan_iter(f"gwanje:limit:{tenant.schema_name}:*"):
        redis.delete(key)


def test_every_limit_is_shown_with_what_is_used_and_refused(api: Api, tenant_a: Any, tenant_b: Any) -> None:
    other = Api(tenant_b.slug, key=issue_key(tenant_b))
    for tenant in (tenant_a, tenant_b):
        forget(tenant)
    set_limits(tenant_a, tenant_rate=100, daily_quota=1000, max_payload=500)
    use_up(tenant_a, 50)
    with schema_context(tenant_a.schema_name):
        today = datetime.now(UTC).date()
        LimitHit.objects.create(day=today, limit="device_rate", device_id=1, count=3)
        LimitHit.objects.create(day=today, limit="device_rate", device_id=2, count=4)
        LimitHit.objects.create(day=today - timedelta(days=1), limit="daily_quota", count=9)
    shown = {name: row for name, row in by_name(api).items() if name not in set(QuotaName)}
    midnight = datetime.combine(today + timedelta(days=1), datetime.min.time())
    assert shown == {
        "tenant_rate": shown["tenant_rate"] | {"value": 100, "burst": 1000, "source": "tenant", "refused_today": 0},
        "device_rate": _none | {"refused_today": 7},
        "tenant_backfill_rate": _none,
        "device_backfill_rate": _none,
        "tenant_refusal_rate": _none | {"value": 200, "burst": 2000},
        "device_refusal_rate": _none | {"value": 20, "burst": 200},
        "daily_quota": _none
        | {
            "value": 1000,
            "source": "tenant",
            "used": shown["daily_quota"]["used"],
            "resets_at": f"{midnight.isoformat()}Z",
        },
        "max_payload": _none | {"value": 500, "source": "tenant"},
        "overflow_megabytes": _none | {"value": 2048},
    }
    assert shown["daily_quota"]["used"] == 50
    assert 5 <= shown["tenant_rate"]["used"] <= 10
    assert by_name(other)["daily_quota"] == _none
    forget(tenant_a)


_none = {
    "value": None,
    "burst": None,
    "source": "default",
    "used": None,
    "refused_today": 0,
    "resets_at": None,
    "is_near": False,
}


def test_without_redis_the_limits_are_shown_all_the_same(api: Api, tenant_a: Any, settings: Any) -> None:
    set_limits(tenant_a, tenant_rate=100, daily_quota=1000)
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:9/0"}}
    shown = by_name(api)
    assert (shown["daily_quota"]["value"], shown["daily_quota"]["used"]) == (1000, None)


def test_refusals_are_listed_by_day_limit_and_device(api: Api, tenant_a: Any) -> None:
    device = make_device(tenant_a)
    with schema_context(tenant_a.schema_name):
        LimitHit.objects.create(day=T0.date(), limit="tenant_rate", count=5)
        LimitHit.objects.create(day=T0.date(), limit="device_rate", device=device, count=7)
        LimitHit.objects.create(day=T0.date() - timedelta(days=1), limit="tenant_rate", count=1)
    rows = api.get("limits/refusals/").json()["results"]
    assert [(row["day"], row["name"], row["device"], row["count"]) for row in rows] == [
        ("2026-11-22", "device_rate", str(device.uuid), 7),
        ("2026-11-22", "tenant_rate", None, 5),
        ("2026-11-21", "tenant_rate", None, 1),
    ]
    assert len(api.get("limits/refusals/", name="tenant_rate").json()["results"]) == 2
    assert len(api.get("limits/refusals/", device=device.uuid).json()["results"]) == 1
    assert len(api.get("limits/refusals/", **{"from": "2026-11-22"}).json()["results"]) == 2
    assert "name" in problems(api.get("limits/refusals/", name="x"))


def test_a_range_of_days_that_ends_before_it_begins_is_refused(api: Api) -> None:
    for path in ("limits/refusals/", "totals/"):
        assert api.get(path, **{"from": "2026-11-21", "to": "2026-11-22"}).status_code == 200
        for start in ("2026-11-22", "2026-11-23"):
            refused = api.get(path, **{"from": start, "to": "2026-11-22"})
            assert problems(refused) == {"from": "'from' must be earlier than 'to'."}
