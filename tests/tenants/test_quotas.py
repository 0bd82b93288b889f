"""Quotas of objects: refused by name, also at the same time, in bulk and on pages; what is there stays."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django_tenants.utils import schema_context

from tenants.models import Membership, Plan, Tenant, TenantLimits
from tenants.services import quotas
from tenants.services.limits import set_limits
from tenants.services.quotas import QuotaExceeded, QuotaName
from tests.api.client import Api
from tests.factories import issue_key, make_user
from tests.processes import run_at_once


def used(tenant: Any, name: QuotaName) -> int:
    with schema_context(tenant.schema_name):
        return quotas.use_of(name).used


def allow(tenant: Any, name: QuotaName, more: int) -> int:
    """Set the tenant's own quota to so many more than there are; return it."""
    value = used(tenant, name) + more
    values: dict[str, Any] = {name: value}
    set_limits(Tenant.objects.get(pk=tenant.pk), **values)
    return value


def add_device() -> Any:
    from devices.services.provisioning.registration import register_device

    return register_device(name="one more")


def add_component() -> Any:
    from devices.models import Component, ComponentType, Device

    kind, device = ComponentType.objects.earliest("pk"), Device.objects.earliest("pk")
    return Component.objects.create(device=device, key=f"part-{datetime.now(UTC).timestamp()}", component_type=kind)


def add_hardware_model() -> Any:
    from devices.models import HardwareModel

    return HardwareModel.objects.create(name=f"board {datetime.now(UTC).timestamp()}")


def add_component_type() -> Any:
    from devices.models import ComponentType

    return ComponentType.objects.create(key=f"kind-{datetime.now(UTC).timestamp()}", name="a kind")


def add_metric() -> Any:
    from devices.models import ComponentType, Metric

    key = f"m-{datetime.now(UTC).timestamp()}"
    return Metric.objects.create(component_type=ComponentType.objects.earliest("pk"), key=key, path=key)


def add_window() -> Any:
    from devices.models import Device, MaintenanceWindow

    now = datetime.now(UTC)
    device = Device.objects.earliest("pk")
    return MaintenanceWindow.objects.create(device=device, starts_at=now, ends_at=now + timedelta(hours=1))


def add_key() -> Any:
    from devices.services.api_keys import issue_api_key

    return issue_api_key(name="one more")[0]


ADDITIONS: dict[QuotaName, Callable[[], Any]] = {
    QuotaName.DEVICES: add_device,
    QuotaName.COMPONENTS: add_component,
    QuotaName.HARDWARE_MODELS: add_hardware_model,
    QuotaName.COMPONENT_TYPES: add_component_type,
    QuotaName.METRICS: add_metric,
    QuotaName.MAINTENANCE_WINDOWS: add_window,
    QuotaName.API_KEYS: add_key,
}


def test_every_quota_has_a_test_and_a_default(settings: Any) -> None:
    assert ADDITIONS.keys() | {QuotaName.MEMBERSHIPS} == set(QuotaName) == settings.TENANT_QUOTAS.keys()
    assert set(quotas.QUOTA_LABELS) == set(QuotaName)
    assert all(hasattr(TenantLimits, name) and hasattr(Plan, name) for name in QuotaName)


@pytest.mark.parametrize("name", ADDITIONS)
def test_the_object_beyond_a_quota_is_refused_by_name(
    db: None, register: Any, tenant_a: Any, tenant_b: Any, name: QuotaName
) -> None:
    register(tenant=tenant_b), register()
    value = allow(tenant_a, name, 1)
    with schema_context(tenant_a.schema_name):
        ADDITIONS[name]()
        with pytest.raises(QuotaExceeded) as refused:
            ADDITIONS[name]()
    assert refused.value.code == "quota_exceeded"
    assert all(word in refused.value.message for word in (str(name), str(value), "set for this tenant"))
    assert used(tenant_a, name) == value
    with schema_context(tenant_b.schema_name):
        ADDITIONS[name]()


def test_memberships_are_counted_for_their_tenant(db: None, tenant_a: Any, tenant_b: Any) -> None:
    allow(tenant_a, QuotaName.MEMBERSHIPS, 1)
    make_user("first", tenant_a, "viewer")
    other = make_user("second", tenant_b, "viewer")
    with pytest.raises(QuotaExceeded):
        Membership.objects.create(user=other, tenant=tenant_a, role="viewer")


def test_a_tenant_above_a_new_quota_keeps_what_it_has(db: None, register: Any, tenant_a: Any) -> None:
    device, _other = register(), register()
    set_limits(Tenant.objects.get(pk=tenant_a.pk), max_devices=1)
    with schema_context(tenant_a.schema_name):
        device.device.name = "changed"
        device.device.save()
        with pytest.raises(QuotaExceeded):
            add_device()


def test_a_revoked_key_makes_room(db: None, tenant_a: Any) -> None:
    from devices.services.api_keys import revoke_api_key

    allow(tenant_a, QuotaName.API_KEYS, 1)
    with schema_context(tenant_a.schema_name):
        revoke_api_key(add_key())
        add_key()
        with pytest.raises(QuotaExceeded):
            add_key()


def test_the_plan_and_the_default_apply_in_turn(db: None, tenant_a: Any, settings: Any) -> None:
    plan = Plan.objects.create(name="Small", max_devices=7)
    tenant = Tenant.objects.get(pk=tenant_a.pk)

    def effective() -> tuple[int, str] | None:
        quota = quotas.quota_of(Tenant.objects.select_related("limits__plan").get(pk=tenant.pk), QuotaName.DEVICES)
        return (quota.value, quota.source) if quota else None

    settings.TENANT_QUOTAS = {**settings.TENANT_QUOTAS, "max_devices": 9}
    assert effective() == (9, "default")
    set_limits(tenant, plan=plan)
    assert effective() == (7, "plan")
    set_limits(tenant, max_devices=3)
    assert effective() == (3, "tenant")
    set_limits(tenant, max_devices=0)
    assert effective() is None
    settings.TENANT_QUOTAS = {**settings.TENANT_QUOTAS, "max_devices": 0}
    set_limits(tenant, plan=None, max_devices=None)
    assert effective() is None


def test_the_api_names_the_quota(db: None, tenant_a: Any) -> None:
    api = Api(tenant_a.slug, key=issue_key(tenant_a))
    value = allow(tenant_a, QuotaName.DEVICES, 1)
    assert api.post("devices/", {"name": "last"}).status_code == 201
    answer = api.post("devices/", {"name": "beyond"})
    error = answer.json()
    assert (answer.status_code, error["code"]) == (409, "quota_exceeded")
    assert f"max_devices (devices) is {value}" in error["detail"]
    rows = {row["name"]: row for row in api.get("limits/").json()["results"]}
    own = rows["max_devices"]
    assert (own["value"], own["used"], own["source"], own["is_near"]) == (value, value, "tenant", True)
    assert rows["max_metrics"]["is_near"] is False


def test_a_rolled_back_addition_takes_no_room(db: None, tenant_a: Any) -> None:
    allow(tenant_a, QuotaName.HARDWARE_MODELS, 2)
    with schema_context(tenant_a.schema_name):
        add_hardware_model()
        for _ in range(5):
            with transaction.atomic():
                add_hardware_model()
                transaction.set_rollback(True)
        add_hardware_model()
        with pytest.raises(QuotaExceeded):
            add_hardware_model()


@pytest.fixture
def cleaned(live_db: None, tenant_a: Any) -> Iterator[None]:
    from devices.models import HardwareModel

    yield
    set_limits(Tenant.objects.get(pk=tenant_a.pk), max_hardware_models=None)
    with schema_context(tenant_a.schema_name):
        HardwareModel.objects.filter(name__startswith="board ").delete()


def test_requests_at_the_same_time_never_exceed_it(cleaned: None, tenant_a: Any) -> None:
    value = allow(tenant_a, QuotaName.HARDWARE_MODELS, 3)

    def attempt() -> bool:
        with schema_context(tenant_a.schema_name):
            try:
                add_hardware_model()
            except QuotaExceeded:
                return False
            return True

    assert sum(run_at_once([attempt] * 10)) == 3
    assert used(tenant_a, QuotaName.HARDWARE_MODELS) == value


@pytest.mark.parametrize("skip_errors", [False, True])
def test_an_import_beyond_the_quota_is_refused_before_anything_is_applied(
    db: None, tenant_a: Any, skip_errors: bool
) -> None:
    from devices.services.provisioning import import_application, import_jobs
    from tenants.infrastructure.spreadsheets import TableRow

    rows = [TableRow(number, {"name": f"of a table {number}"}) for number in range(2, 7)]
    value = allow(tenant_a, QuotaName.DEVICES, 3)
    with schema_context(tenant_a.schema_name):
        found = import_application.dry_run(rows)
        assert [row.outcome for row in found.rows] == ["new"] * 3 + ["error"] * 2
        assert "max_devices" in found.refused()[0].problems[0].detail
        if skip_errors:
            _kept, done = import_jobs.import_rows(rows, skip_errors=True)
            assert done is not None
            assert done.counts() == {"new": 3, "updated": 0, "unchanged": 0, "error": 2}
        else:
            with pytest.raises(import_jobs.HasErrors):
                import_jobs.import_rows(rows)
    assert used(tenant_a, QuotaName.DEVICES) == (value if skip_errors else value - 3)
