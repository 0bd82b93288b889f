"""Devices in the tenant's admin: registered, changed, removed, and what is shown of them."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.admin.utils import quote as admin_quote
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import AuditEntry, Device, DeviceStatus, HardwareModel
from telemetry.models import IngestTotals, Quarantined
from tenants.models import DeviceRoute, Tenant, User
from tests.factories import add_change, add_message, add_quarantined, add_readings, add_series, make_device, make_user

from .client import ADMIN, Pages, device_form, device_page, formset


def registration(name: str = "a device", uuid: Any = "", **components: int) -> dict[str, Any]:
    rows = [{"component_type": pk, "key": key.replace("_", "-")} for key, pk in components.items()]
    return {"name": name, "uuid": str(uuid)} | formset("components", *rows)


@pytest.mark.parametrize("made_up", ["import", "0", "9999999", "a/b", "1; --"])
def test_a_device_that_is_none_is_said_to_be_none(pages: Pages, made_up: str) -> None:
    url = f"{ADMIN}devices/device/{admin_quote(made_up)}/change/"
    answer = pages.client.get(url, follow=True)
    assert answer.status_code == 200
    assert "exist" in answer.content.decode()


def test_a_uuid_that_another_tenant_has_is_refused_without_naming_it(pages: Pages, tenant_b: Tenant) -> None:
    taken = make_device(tenant_b, "foreign").uuid
    page = pages.post("devices/device/add/", registration(uuid=taken)).content.decode()
    assert "This UUID is already registered." in page
    assert "beta" not in page.lower()


def test_a_generated_uuid_is_owned_and_an_entered_one_is_unproven(
    pages: Pages, tenant_a: Tenant, settings: Any
) -> None:
    settings.MQTT_ADMIN_URL = ""
    page = pages.get("devices/device/add/").content.decode()
    (generated,) = re.findall(r'name="generated" value="([^"]+)"', page)
    (uuid,) = re.findall(r'name="uuid" value="([^"]+)"', page)
    chosen = str(uuid4())
    for name, each in (("first", uuid), ("second", chosen)):
        assert pages.post("devices/device/add/", registration(name, each) | {"generated": generated}).status_code == 200
    assert pages.post("devices/device/add/", registration("third", uuid4())).status_code == 200
    with schema_context(tenant_a.schema_name):
        owned = dict(Device.objects.values_list("name", "ownership"))
    assert (owned["first"], owned["second"], owned["third"]) == ("owned", "unproven", "unproven")
    assert set(DeviceRoute.objects.filter(pk__in=[uuid, chosen]).values_list("pk", flat=True)) == {UUID(uuid)}


def test_nothing_is_registered_while_vault_is_away(pages: Pages, settings: Any) -> None:
    from devices.services.vault import secret_store

    settings.VAULT_ADDR = "http://127.0.0.1:9"
    secret_store.reset_provisioner()
    uuid = uuid4()
    try:
        answer = pages.post("devices/device/add/", registration(uuid=uuid))
    finally:
        secret_store.reset_provisioner()
    assert answer.status_code == 200
    assert "Nothing was changed" in answer.content.decode()
    assert not DeviceRoute.objects.filter(device_uuid=uuid).exists()


def test_saving_a_device_does_not_lower_what_the_listener_raised(
    pages: Pages, tenant_a: Tenant, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from devices.admin.devices import DeviceAdmin

    save = DeviceAdmin.save_model

    def raised_meanwhile(self: Any, request: Any, obj: Any, form: Any, change: bool) -> None:
        Device.objects.filter(pk=obj.pk).update(min_signature_version=2)
        save(self, request, obj, form, change)

    monkeypatch.setattr(DeviceAdmin, "save_model", raised_meanwhile)
    assert pages.post(device_page(device), device_form(name="renamed")).status_code == 302
    with schema_context(tenant_a.schema_name):
        device.refresh_from_db()
        assert (device.name, device.min_signature_version) == ("renamed", 2)


@pytest.mark.parametrize(
    ("action", "before", "after", "recorded"),
    [
        ("deactivate", {"active": True}, {"active": False}, "deactivate"),
        ("activate", {"active": False}, {"active": True}, "activate"),
        ("allow-version-1", {"min_signature_version": 2}, {"min_signature_version": 1}, "allow version 1"),
    ],
)
def test_an_action_asks_first_and_is_recorded(
    pages: Pages,
    tenant_a: Tenant,
    device: Device,
    action: str,
    before: dict[str, Any],
    after: dict[str, Any],
    recorded: str,
) -> None:
    def values() -> dict[str, Any]:
        with schema_context(tenant_a.schema_name):
            return Device.objects.values(*after).get(pk=device.pk)

    with schema_context(tenant_a.schema_name):
        Device.objects.filter(pk=device.pk).update(**before)
    assert pages.get(device_page(device, action)).status_code == 200
    assert values() == before
    assert pages.post(device_page(device, action)).status_code == 302
    assert values() == after
    with schema_context(tenant_a.schema_name):
        assert AuditEntry.objects.filter(action=recorded, object_id=str(device.pk)).exists()


def test_a_device_with_readings_is_not_removed(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    add_series(tenant_a, device, "dht22", "temperature", "°C")
    page = pages.post(device_page(device, "remove"), follow=True).content.decode()
    assert "deactivate it instead" in page
    assert pages.get(device_page(device, "delete")).status_code == 403


def test_a_new_key_is_shown_once_and_an_old_one_revoked(
    live_db: None, register: Callable[..., Any], tenant_a: Tenant
) -> None:
    registered = register(components={"dht22": "dht22"})
    pages = Pages(ADMIN, User.objects.get(username="owner-alpha"))
    page = device_page(registered.device, "rotate-key")
    assert pages.get(page).status_code == 200
    answer = pages.post(page)
    config = json.loads(answer.context["config"])
    assert (config["kid"], config["mqtt_password"]) == ("2", registered.mqtt_password)
    assert config["secret"] != registered.secret
    assert "no-store" in answer["Cache-Control"]
    shown = pages.get(device_page(registered.device)).content.decode()
    assert config["secret"] not in shown
    pages.post(device_page(registered.device, "revoke-key") + "?version=1")
    with schema_context(tenant_a.schema_name):
        assert registered.device.credentials.get(version=1).revoked_at is not None
        assert registered.device.credentials.get(version=2).revoked_at is None
    assert pages.post(device_page(registered.device, "revoke-key") + "?version=7").status_code == 404
    answer = pages.post(device_page(registered.device, "remove"), follow=True)
    assert "has been removed" in answer.content.decode()
    assert not DeviceRoute.objects.filter(device_uuid=registered.device.uuid).exists()


# --- what is shown ------------------------------------------------------------------------------------------


def test_a_devices_page_shows_state_values_and_what_was_refused(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    now = timezone.now()
    add_change(tenant_a, device, "OFFLINE", "will", now)
    temperature = add_series(tenant_a, device, "dht22", "temperature", "°C")
    state = add_series(tenant_a, device, "relay", "state", "", "boolean")
    add_readings(tenant_a, temperature, (now, 21.5))
    add_readings(tenant_a, state, (now, True))
    add_quarantined(tenant_a, now, "out_of_range", device=device, detail="210 is too hot")
    page = " ".join(pages.get(device_page(device)).content.decode().split())
    for text in (
        "offline",
        "the will was received at",
        ">21.5<",
        ">°C<",
        ">true<",
        "210 is too hot",
    ):
        assert text in page, text


def test_the_charts_show_the_range_that_is_asked_for(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    assert "This range has no numeric readings." in pages.get(device_page(device)).content.decode()
    add_readings(tenant_a, series, (timezone.now() - timedelta(days=20), 21.0))
    for asked, shown, count in (
        ("", "24h", 0),
        ("?range=7d", "7d", 0),
        ("?range=30d", "30d", 1),
        ("?range=x", "24h", 0),
    ):
        page = pages.get(device_page(device) + asked).content.decode()
        assert f'<a href="?range={shown}#charts" aria-current="true">' in page
        assert page.count('class="gw-chart"') == count
        assert page.count('aria-current="true"') >= 1


def test_messages_are_shown_as_they_were_sent(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    add_message(tenant_a, device, timezone.now(), b'{"value": {"temp": 21.5}}')
    page = pages.get(device_page(device, "messages")).content.decode()
    assert "{&quot;value&quot;: {&quot;temp&quot;: 21.5}}" in page
    assert f"telemetry/alpha/{device.uuid}/dht22" in page


def test_the_quarantine_is_filtered_and_readable(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    now = timezone.now()
    first = add_quarantined(tenant_a, now, "malformed", detail="no JSON here", payload=b"\xff\x00")
    add_quarantined(tenant_a, now, "bad_signature", detail="not its key", device=device)
    rows = pages.get("telemetry/quarantined/?reason__exact=malformed").content.decode()
    assert "no JSON here" in rows
    assert "not its key" not in rows
    rows = pages.get(f"telemetry/quarantined/?device__id__exact={device.pk}").content.decode()
    assert "no JSON here" not in rows
    assert "not its key" in rows
    assert "ff 00" in pages.get(f"telemetry/quarantined/{first.pk}/change/").content.decode()
    assert pages.post(f"telemetry/quarantined/{first.pk}/delete/", {"post": "yes"}).status_code == 403
    with schema_context(tenant_a.schema_name):
        assert Quarantined.objects.filter(pk=first.pk).exists()


def test_the_first_page_counts(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    with schema_context(tenant_a.schema_name):
        DeviceStatus.objects.filter(device=device).update(status="TIMEOUT")
        IngestTotals.objects.update_or_create(
            day=timezone.now().date(), defaults={"received": 1234, "stored": 1230, "quarantined": 4}
        )
    page = " ".join(pages.get().content.decode().split())
    assert "<strong>1</strong><span>timed out</span>" in page
    assert "<strong>1234</strong><span>Received</span>" in page


def test_lists_cost_the_same_however_long(pages: Pages, tenant_a: Tenant, count_queries: Any) -> None:
    def add(many: int) -> None:
        for _ in range(many):
            device = make_device(tenant_a, f"device {uuid4()}", dht22="dht22")
            add_quarantined(tenant_a, timezone.now(), device=device)
            with schema_context(tenant_a.schema_name):
                Device.objects.filter(pk=device.pk).update(hardware_model=HardwareModel.objects.first())

    lists = ("devices/device/", "devices/component/", "telemetry/quarantined/", "devices/auditentry/", "")
    add(3)
    with_three = {path: count_queries(lambda path=path: pages.get(path)) for path in lists}
    add(27)
    assert {path: count_queries(lambda path=path: pages.get(path)) for path in lists} == with_three
    assert max(with_three.values()) <= 20, with_three


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 403), ("admin", 302)])
def test_retention_is_set_by_administrators(tenant_a: Tenant, db: None, role: str, status: int) -> None:
    from telemetry.models import RetentionSettings

    pages = Pages(ADMIN, make_user("person", tenant_a, role))
    path = "telemetry/retentionsettings/1/change/"
    assert pages.client.get(ADMIN + "telemetry/retentionsettings/", follow=True).redirect_chain == [(ADMIN + path, 302)]
    values = {"messages_months": "3", "readings_months": "12", "rollups_months": ""}
    assert pages.post(path, values).status_code == status
    if status == 302:
        refused = pages.post(path, values | {"rollups_months": "6"})
        assert refused.status_code == 200
        assert "at least as long as the readings" in refused.content.decode()
    with schema_context(tenant_a.schema_name):
        rows = list(RetentionSettings.objects.values_list("messages_months", "readings_months", "rollups_months"))
    assert rows == ([(3, 12, None)] if status == 302 else [])
