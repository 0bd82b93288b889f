"""Disputes over UUIDs on the console: who can decide them, and what a decision does."""

from typing import Any

import pytest
from django_tenants.utils import schema_context

from devices.models import AuditEntry, Device
from tenants.models import DeviceRoute, RouteCandidate
from tests.factories import make_device, make_user

from .client import Pages

CONSOLE = "/admin/"


@pytest.fixture
def console(db: None, settings: Any) -> Pages:
    settings.MQTT_ADMIN_URL = ""
    return Pages(CONSOLE, make_user("root", is_superuser=True, is_staff=True))


@pytest.fixture
def dispute(db: None, tenant_a: Any, tenant_b: Any) -> tuple[Any, RouteCandidate]:
    """A device with a route of one tenant, and an unproven registration of the other one with its UUID."""
    owned = make_device(tenant_b)
    with schema_context(tenant_a.schema_name):
        Device.objects.create(uuid=owned.uuid, name="disputed", ownership=Device.Ownership.DISPUTED)
    return owned, RouteCandidate.objects.create(device_uuid=owned.uuid, tenant=tenant_a)


def state_in(tenant: Any, uuid: Any) -> tuple[str, list[tuple[str, str]]]:
    """(ownership, the audit's rows) of the device with that UUID."""
    with schema_context(tenant.schema_name):
        device = Device.objects.get(uuid=uuid)
        rows = AuditEntry.objects.filter(object_type="devices.device", object_id=str(device.pk))
        return str(device.ownership), list(rows.values_list("user_label", "action"))


def test_a_tenant_is_confirmed_after_a_question(
    console: Pages, dispute: tuple[Any, RouteCandidate], tenant_a: Any, tenant_b: Any
) -> None:
    device, candidate = dispute
    page = console.get("tenants/routecandidate/").content.decode()
    assert str(device.uuid) in page
    assert tenant_b.name in page
    address = f"tenants/routecandidate/{candidate.pk}/confirm/"
    assert "loses it" in console.get(address).content.decode()
    assert DeviceRoute.objects.get(pk=device.uuid).tenant_id == tenant_b.pk, "nothing before the confirmation"
    assert console.post(address).status_code == 302
    assert DeviceRoute.objects.get(pk=device.uuid).tenant_id == tenant_a.pk
    assert not RouteCandidate.objects.filter(pk=candidate.pk).exists()
    assert state_in(tenant_a, device.uuid) == ("owned", [("root", "confirm UUID")])
    assert state_in(tenant_b, device.uuid) == ("disputed", [("root", "release UUID")])


def test_a_uuid_is_released_after_a_question(
    console: Pages, dispute: tuple[Any, RouteCandidate], tenant_b: Any
) -> None:
    device, _ = dispute
    address = f"tenants/deviceroute/{device.uuid}/release/"
    assert "loses the UUID" in console.get(address).content.decode()
    assert console.post(address).status_code == 302
    assert not DeviceRoute.objects.filter(pk=device.uuid).exists()
    assert state_in(tenant_b, device.uuid) == ("disputed", [("root", "release UUID")])


def test_staff_without_the_permission_decide_nothing(db: None, dispute: tuple[Any, RouteCandidate]) -> None:
    device, candidate = dispute
    plain = Pages(CONSOLE, make_user("plain", is_staff=True))
    for address in (f"routecandidate/{candidate.pk}/confirm/", f"deviceroute/{device.uuid}/release/"):
        assert plain.post(f"tenants/{address}").status_code == 403
    assert RouteCandidate.objects.filter(pk=candidate.pk).exists()
    assert DeviceRoute.objects.filter(pk=device.uuid).exists()
