"""Presence in the tenant's admin: panels, timelines, maintenance windows and rules."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import (
    Component,
    Device,
    DeviceContact,
    DeviceStatus,
    HardwareModel,
    IgnoredWill,
    MaintenanceWindow,
    PresenceSettings,
    StatusChange,
)
from tenants.models import Tenant
from tests.factories import add_change, add_readings, add_series, make_device, make_user

from .client import ADMIN, Pages, device_form, device_page, formset

HOUR = timedelta(hours=1)


def text_of(answer: Any) -> str:
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


@pytest.fixture
def evaluated_at(tenant_a: Tenant, device: Device) -> datetime:
    """The time until which the device was ONLINE for ten hours; TIMEOUT since then, one hour ago."""
    now = timezone.now()
    add_change(tenant_a, device, "ONLINE", "birth", now - 11 * HOUR, session="first")
    silent = now - HOUR - timedelta(minutes=2)
    add_change(tenant_a, device, "TIMEOUT", "timeout", now - HOUR, evidence_at=silent, suppressed_by="flapping")
    return now


def test_the_head_says_why_and_how_long_it_may_be_silent(
    pages: Pages, tenant_a: Tenant, device: Device, evaluated_at: datetime
) -> None:
    page = text_of(pages.get(device_page(device)))
    assert f"No message since {evaluated_at - HOUR - timedelta(minutes=2):%Y-%m-%d %H:%M:%S} UTC" in page
    assert "Not published: flapping." in page
    assert "2 min <span" in page
    assert "two missed reports of its most frequent component" in page
    assert "maintenance" not in re.sub(r"maintenance_windows|Maintenance", "", page.partition('id="timeline"')[0])
    with schema_context(tenant_a.schema_name):
        DeviceStatus.objects.filter(device=device).update(flapping_until=evaluated_at + HOUR)
        Device.objects.filter(pk=device.pk).update(timeout_seconds=5400)
        MaintenanceWindow.objects.create(
            device=device, starts_at=evaluated_at - HOUR, ends_at=evaluated_at + HOUR, reason="new pump"
        )
    page = text_of(pages.get(device_page(device))).partition('id="freshness"')[0]
    for text in ("> flapping <", "> maintenance <", "1 h 30 min", "set for the device", "new pump"):
        assert text in page, text
    listed = text_of(pages.get("devices/device/"))
    assert "> flapping <" in listed
    assert "> maintenance <" in listed


def test_the_head_says_what_came_last_and_why_it_does_not_count(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    now = timezone.now()
    with schema_context(tenant_a.schema_name):
        contact = DeviceContact.objects.create(
            device=device, received_at=now, device_time=now - timedelta(hours=5), reason="late", topic="telemetry/a/b/c"
        )
    page = text_of(pages.get(device_page(device)))
    assert "5 h behind: a time zone?" in page
    with schema_context(tenant_a.schema_name):
        contact.detail, contact.reason = "<b>-127</b> °C is outside", "out_of_range"
        contact.save()
    page = text_of(pages.get(device_page(device)))
    assert "&lt;b&gt;-127&lt;/b&gt; °C is outside" in page


def test_the_list_filters_devices_that_send_but_are_refused(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    sending = make_device(tenant_a, "sends but is late")
    with schema_context(tenant_a.schema_name):
        DeviceContact.objects.create(device=sending, received_at=timezone.now(), reason="late", topic="t")
    listed = text_of(pages.get("devices/device/"))
    assert sending.name in listed
    assert device.name in listed
    filtered = text_of(pages.get("devices/device/?refused=true"))
    assert sending.name in filtered
    assert device.name not in filtered


def test_the_bar_shows_each_state_with_its_times(pages: Pages, device: Device, evaluated_at: datetime) -> None:
    def parts(query: str) -> dict[str, float]:
        page = text_of(pages.get(device_page(device) + query))
        found = re.findall(r'width="([\d.]+)%" height="30" fill="url\(#gw-(\w+)\)"><title>([^<]+)', page)
        assert all(" from " in title and " until " in title for *_, title in found)
        return {status: float(width) for width, status, _ in found}

    assert parts("") == pytest.approx({"UNKNOWN": 100 * 13 / 24, "ONLINE": 100 * 10 / 24, "TIMEOUT": 100 / 24}, abs=0.1)
    month = parts("?timeline=30d")
    assert month["ONLINE"] == pytest.approx(100 * 10 / 720, abs=0.1)
    assert month["TIMEOUT"] == pytest.approx(0.3), "a short outage is wide enough to be seen"
    assert "ONLINE" in parts("?timeline=nonsense")


def test_the_months_are_in_figures(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    month = timezone.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    add_change(tenant_a, device, "ONLINE", "birth", month - 100 * HOUR)
    add_change(tenant_a, device, "OFFLINE", "will", month - 50 * HOUR)
    add_change(tenant_a, device, "ONLINE", "birth", month - 25 * HOUR)
    page = text_of(pages.get(device_page(device))).partition('id="availability"')[2].partition("</table>")[0]
    this, last = re.findall(r"<tr>.*?</tr>", page.partition("<tbody>")[2])
    assert re.findall(r">([^<>]+)</td>", this)[:5] == [f"{month:%Y-%m}", "100 %", "0", "–", "–"]
    assert re.findall(r">([^<>]+)</td>", last)[1:] == ["75 %", "1", "1 d 1 h", "3 d 3 h", "4 d 4 h"]


def test_components_show_whether_they_report(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    now = timezone.now()
    add_readings(tenant_a, add_series(tenant_a, device, "dht22", "temperature", "°C"), (now - 3 * HOUR, 20))
    with schema_context(tenant_a.schema_name):
        Component.objects.filter(device=device, key="dht22").update(expected_interval=3600)
    table = text_of(pages.get(device_page(device))).partition('id="freshness"')[2].partition("</table>")[0]
    dht22, relay = re.findall(r"<tr>.*?</tr>", table.partition("<tbody>")[2])
    assert "stale" in dht22
    assert "3 hours ago" in dht22
    assert "1 h</td>" in dht22
    assert "never reported" in relay
    with schema_context(tenant_a.schema_name):
        Component.objects.filter(device=device, key="relay").update(attached=False)
    assert "not attached" in text_of(pages.get(device_page(device)))


# --- the ledger ---------------------------------------------------------------------------------------------


def test_the_ledger_is_filtered(pages: Pages, device: Device, evaluated_at: datetime) -> None:
    def shown(query: str) -> list[str]:
        page = text_of(pages.get(device_page(device, "presence") + query))
        return re.findall(r"(Birth message received at|No message)", page)

    assert shown("") == ["No message", "Birth message received at"]
    assert shown("?cause=timeout") == ["No message"]
    assert shown("?status=ONLINE") == ["Birth message received at"]
    assert shown("?status=OFFLINE") == []
    tomorrow = evaluated_at + timedelta(days=1)
    assert shown(f"?since={tomorrow:%Y-%m-%d}") == []
    assert shown(f"?until={tomorrow:%Y-%m-%d}&cause=birth") == ["Birth message received at"]
    page = text_of(pages.get(device_page(device, "presence") + "?since=yesterday&status=GONE"))
    assert "Enter a valid date." in page
    assert "GONE is not one of the available choices." in page


def test_the_ledger_is_turned_over(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    now = timezone.now()
    with schema_context(tenant_a.schema_name):
        StatusChange.objects.bulk_create(
            StatusChange(
                device=device,
                from_status=("OFFLINE", "ONLINE")[number % 2],
                to_status=("ONLINE", "OFFLINE")[number % 2],
                cause=("birth", "will")[number % 2],
                session=f"session-{number}",
                evidence_at=now,
                at=now,
            )
            for number in range(120)
        )
    seen, query = [], "?cause=birth"
    while query:
        page = text_of(pages.get(device_page(device, "presence") + query))
        seen += re.findall(r"session-(\d+)\.", page)
        older = re.search(r'href="(\?[^"]*before=\d+)"', page)
        query = older[1].replace("&amp;", "&") if older else ""
    assert seen == [str(number) for number in range(118, -1, -2)]


def test_ignored_wills_are_evidence(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    with schema_context(tenant_a.schema_name):
        IgnoredWill.objects.create(
            device=device, session="the-old-one", reason="other_session", evidence_at=timezone.now()
        )
    page = text_of(pages.get(device_page(device, "presence")))
    assert "it belongs to another session than the current one" in page
    assert "the-old-one" in page


def test_a_text_of_a_device_cannot_write_into_the_page(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    add_change(tenant_a, device, "ONLINE", "birth", timezone.now(), session="<script>alert(1)</script>")
    for path in (device_page(device), device_page(device, "presence")):
        assert "<script>alert(1)" not in pages.get(path).content.decode()


# --- what people set ----------------------------------------------------------------------------------------


def window_row(start: datetime, stop: datetime, reason: str) -> dict[str, str]:
    times = {"starts_at": start, "ends_at": stop}
    split = {f"{name}_0": f"{time:%Y-%m-%d}" for name, time in times.items()}
    split |= {f"{name}_1": f"{time:%H:%M:%S}" for name, time in times.items()}
    return split | {"reason": reason}


def test_an_operator_sets_a_maintenance_window_and_a_time_out(tenant_a: Tenant, device: Device) -> None:
    pages, now = Pages(ADMIN, make_user("an-operator", tenant_a, "operator")), timezone.now()
    wrong = formset("maintenance_windows", window_row(now, now - HOUR, "new pump"))
    assert "The end must be later than the start." in text_of(pages.post(device_page(device), device_form(**wrong)))
    right = formset("maintenance_windows", window_row(now - HOUR, now + HOUR, "new pump"))
    answer = pages.post(device_page(device), device_form(timeout_seconds="900", **right))
    assert answer.status_code == 302
    with schema_context(tenant_a.schema_name):
        window = MaintenanceWindow.objects.get(device=device)
        assert (window.reason, window.ends_at - window.starts_at) == ("new pump", 2 * HOUR)
        device.refresh_from_db()
        assert device.timeout_seconds == 900
    assert "maintenance window" in text_of(pages.get(device_page(device, "history")))


def test_a_viewer_sees_windows_and_sets_none(tenant_a: Tenant, device: Device) -> None:
    now = timezone.now()
    with schema_context(tenant_a.schema_name):
        MaintenanceWindow.objects.create(device=device, starts_at=now, ends_at=now + HOUR, reason="new pump")
    pages = Pages(ADMIN, make_user("a-viewer", tenant_a, "viewer"))
    assert "new pump" in text_of(pages.get(device_page(device)))
    row = formset("maintenance_windows", window_row(now, now + HOUR, "mine"))
    assert pages.post(device_page(device), device_form(**row)).status_code == 403


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 403), ("admin", 302)])
def test_the_rules_are_changed_by_administrators(tenant_a: Tenant, db: None, role: str, status: int) -> None:
    pages = Pages(ADMIN, make_user("person", tenant_a, role))
    values = {"timeout_seconds": 90, "flapping_changes": 4, "flapping_window_seconds": 300}
    for times in (1, 2):  # the first time there is no row yet
        page = pages.client.get(ADMIN + "devices/presencesettings/", follow=True)
        assert page.status_code == 200
        assert page.redirect_chain == [(ADMIN + "devices/presencesettings/1/change/", 302)]
        answer = pages.post("devices/presencesettings/1/change/", values | {"flapping_changes": 4 + times})
        assert answer.status_code == status
    with schema_context(tenant_a.schema_name):
        rows = list(PresenceSettings.objects.values_list("timeout_seconds", "flapping_changes"))
        assert rows == ([(90, 6)] if status == 302 else [])


def test_a_models_time_out_and_a_types_interval_are_set(pages: Pages, tenant_a: Tenant, device: Device) -> None:
    with schema_context(tenant_a.schema_name):
        model = HardwareModel.objects.get()
        kind = Component.objects.get(device=device, key="relay").component_type
        metrics = [{"id": pk} for pk in kind.metrics.values_list("pk", flat=True)]
    values = {"name": model.name, "version": model.version, "timeout_seconds": "1800"}
    assert pages.post(f"devices/hardwaremodel/{model.pk}/change/", values).status_code == 302
    page = text_of(pages.get(f"devices/componenttype/{kind.pk}/change/"))
    assert 'name="expected_interval"' in page
    assert metrics
    with schema_context(tenant_a.schema_name):
        model.refresh_from_db()
        assert model.timeout_seconds == 1800
        Device.objects.filter(pk=device.pk).update(hardware_model=model)
    assert "30 min <span" in text_of(pages.get(device_page(device)))


def test_the_panels_cost_the_same_however_many_components(tenant_a: Tenant, device: Device) -> None:
    from devices.admin import presence_panels

    def queries() -> int:
        with schema_context(tenant_a.schema_name), CaptureQueriesContext(connection) as captured:
            shown = Device.objects.get(pk=device.pk)
            for panel in (presence_panels.head, presence_panels.timeline, presence_panels.components):
                panel(RequestFactory().get("/"), shown)
        return sum(not query["sql"].startswith("SET search_path") for query in captured)

    few = queries()
    with schema_context(tenant_a.schema_name):
        (dht22, _relay) = Component.objects.filter(device=device)
        Component.objects.bulk_create(
            Component(device=device, key=f"more-{number}", component_type=dht22.component_type) for number in range(20)
        )
    assert queries() == few <= 16
