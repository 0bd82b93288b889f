"""The use of a tenant over the API."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django_tenants.utils import schema_context

from telemetry.models import IngestTotals
from tenants.models import Plan, Tenant
from tenants.services.limits import set_limits
from tests.factories import add_readings, add_series, make_device

from .client import T0, Api, problems


def test_the_use_has_plan_devices_days_storage_and_limits(api: Api, tenant_a: Any, tenant_b: Any) -> None:
    device, today = make_device(tenant_a), datetime.now(UTC).date()
    make_device(tenant_b)
    plan = Plan.objects.create(name="Standard", max_devices=4, daily_quota=1000)
    set_limits(Tenant.objects.get(pk=tenant_a.pk), plan=plan)
    with schema_context(tenant_a.schema_name):
        for age, received in ((0, 10), (2, 5), (7, 99)):
            IngestTotals.objects.create(
                day=today - timedelta(days=age), received=received, stored=received,
                values_received=2 * received, values_stored=2 * received,
            )  # fmt: skip
    before = api.get("usage/", days=3).json()
    assert (before["plan"], before["devices"], before["active_devices"]) == ("Standard", 1, 1)
    assert [(day["messages"], day["readings"]) for day in before["days"]] == [(10, 20), (0, 0), (5, 10)]
    assert [day["day"] for day in before["days"]] == [str(today - timedelta(days=age)) for age in range(3)]
    limits = {limit["name"]: limit for limit in before["limits"]}
    assert (limits["max_devices"]["share"], limits["max_devices"]["is_near"]) == (0.25, False)
    assert limits["max_payload"]["share"] is None
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    add_readings(tenant_a, series, *((T0 + timedelta(seconds=n), n) for n in range(20_000)))
    after = api.get("usage/").json()
    assert after["storage_bytes"] > before["storage_bytes"] > 100_000
    assert len(after["days"]) == 31


def test_days_are_bounded(api: Api) -> None:
    for days in ("0", "367", "x"):
        assert "from 1 to 366" in problems(api.get("usage/", days=days))["days"]
