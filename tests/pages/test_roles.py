"""The rights of each role in a tenant's admin, as tables."""

import pytest
from django_tenants.utils import schema_context

from devices.models import Device, Unit
from tenants.models import Membership, Tenant
from tests.factories import make_user

from .client import ADMIN, PASSWORD, Pages, device_page

ROLES = ("viewer", "operator", "admin", "owner")
# Pages that not every role sees: they have e-mail addresses.
SEEN_BY = {"tenants.membership": "admin"}
# Model → the least role that may add one; None: no role.
ADDED_BY: dict[str, str | None] = {
    "devices.device": "operator",
    "devices.component": "operator",
    "devices.place": "operator",
    "devices.deviceimport": "operator",
    "devices.hardwaremodel": "admin",
    "devices.componenttype": "admin",
    "devices.unit": "admin",
    "devices.apikey": "admin",
    "tenants.membership": "admin",
    "devices.auditentry": None,
    "devices.statuschange": None,
    "devices.waitingpublisher": None,
    "devices.presencesettings": None,
    "devices.rotationcampaign": "admin",
    "telemetry.quarantined": None,
    "telemetry.replay": None,
    "telemetry.ingesttotals": None,
    "telemetry.retentionsettings": None,
    "telemetry.limithit": None,
    "alarms.alarmepisode": None,
    "alarms.alarmrule": "operator",
}
DEVICE_ACTIONS = ("rotate_key", "deactivate", "activate", "allow_v1", "remove")
DEVICE_PATHS = {"rotate_key": "rotate-key", "allow_v1": "allow-version-1"}


def test_every_model_has_a_row() -> None:
    from devices.admin import tenant_admin

    assert {model._meta.label_lower for model in tenant_admin._registry} == set(ADDED_BY)


@pytest.mark.parametrize("role", [*ROLES, "superuser"])
def test_what_each_role_sees_and_adds(tenant_a: Tenant, db: None, role: str) -> None:
    user = make_user("root", is_superuser=True) if role == "superuser" else make_user("person", tenant_a, role)
    pages, rank = Pages(ADMIN, user), len(ROLES) if role == "superuser" else ROLES.index(role)
    assert pages.get().status_code == 200
    for label, least in ADDED_BY.items():
        path = label.replace(".", "/") + "/"
        may = least is not None and rank >= ROLES.index(least)
        sees = rank >= ROLES.index(SEEN_BY.get(label, "viewer"))
        assert pages.client.get(ADMIN + path, follow=True).status_code == (200 if sees else 403), path
        assert pages.get(path + "add/").status_code == (200 if may else 403), path


@pytest.mark.parametrize(
    ("role", "status"), [("viewer", 403), ("operator", 200), ("admin", 200)], ids=["viewer", "operator", "admin"]
)
def test_who_reaches_the_actions_of_a_device(tenant_a: Tenant, device: Device, role: str, status: int) -> None:
    pages = Pages(ADMIN, make_user("person", tenant_a, role))
    for action in DEVICE_ACTIONS:
        path = device_page(device, DEVICE_PATHS.get(action, action))
        assert pages.get(path).status_code == status, action
    assert pages.get(device_page(device, "revoke-key") + "?version=1").status_code == status
    assert pages.get(device_page(device)).status_code == 200
    assert pages.get(device_page(device, "messages")).status_code == 200
    assert pages.get(device_page(device, "presence")).status_code == 200
    if status == 403:
        assert pages.post(device_page(device, "remove")).status_code == 403
        assert pages.post(device_page(device), {"name": "mine"}).status_code == 403


def test_only_administrators_export_everything(tenant_a: Tenant, db: None) -> None:
    path = "telemetry/retentionsettings/1/export-everything/"
    for role in ROLES:
        pages = Pages(ADMIN, make_user(f"a-{role}", tenant_a, role))
        assert pages.get(path).status_code == (200 if role in ("admin", "owner") else 403)
        assert ("Export everything" in pages.get().content.decode()) is (role in ("admin", "owner"))
    answer = pages.post(path)
    assert answer["Content-Type"] == "application/zip"
    assert b"".join(answer.streaming_content).startswith(b"PK")


def test_metadata_is_not_changed_by_operators(tenant_a: Tenant, db: None) -> None:
    pages = Pages(ADMIN, make_user("an-operator", tenant_a, "operator"))
    with schema_context(tenant_a.schema_name):
        unit = Unit.objects.get(symbol="°C")
    assert pages.get(f"devices/unit/{unit.pk}/change/").status_code == 200
    assert pages.post(f"devices/unit/{unit.pk}/change/", {"symbol": "X"}).status_code == 403
    assert pages.post(f"devices/unit/{unit.pk}/delete/", {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("who", ["anonymous", "member of another tenant", "staff, not superuser"])
def test_whoever_has_no_role_is_sent_to_the_tenants_own_sign_in(
    tenant_a: Tenant, tenant_b: Tenant, device: Device, who: str
) -> None:
    user = {
        "anonymous": lambda: None,
        "member of another tenant": lambda: make_user("a-stranger", tenant_b, "admin"),
        "staff, not superuser": lambda: make_user("a-clerk", is_staff=True),
    }[who]()
    pages = Pages(ADMIN, user)
    for path in ("", "devices/device/", device_page(device), "autocomplete/", "telemetry/quarantined/"):
        answer = pages.get(path)
        assert answer.status_code == 302
        assert answer["Location"].startswith(ADMIN + "login/")
    assert "Alpha" in pages.get("login/").content.decode()


def test_signing_in_at_a_tenant_without_a_role_in_it(tenant_a: Tenant, tenant_b: Tenant, db: None) -> None:
    pages = Pages(ADMIN)
    answer = pages.post("login/", {"username": "owner-beta-farm", "password": PASSWORD})
    assert "has no role in this tenant" in answer.content.decode()
    assert pages.post("login/", {"username": "owner-alpha", "password": PASSWORD}).status_code == 302
    assert pages.get().status_code == 200
    assert Pages("/t/beta-farm/admin/").get().status_code == 302


def test_an_object_of_another_tenant_is_not_there(tenant_a: Tenant, tenant_b: Tenant, device: Device) -> None:
    user = make_user("an-owner-of-both", tenant_a, "admin")
    Membership.objects.create(user=user, tenant=tenant_b, role="admin")
    other = Pages("/t/beta-farm/admin/", user)
    assert device.name not in other.get("devices/device/").content.decode()
    assert other.get(device_page(device)).status_code == 302  # Django's answer: back to the list
    for action in DEVICE_ACTIONS:
        assert other.post(device_page(device, DEVICE_PATHS.get(action, action))).status_code == 404
