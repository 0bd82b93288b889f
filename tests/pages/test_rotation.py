"""The pages of key rotations: who may, what they show, and that tokens are shown once."""

import csv
import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from tests.factories import make_user

from .client import ADMIN, Pages, overflow, sign_in

LIST = "devices/rotationcampaign/"


@pytest.fixture(autouse=True)
def quick(settings: Any) -> None:
    settings.INGEST_SPEC_TTL = 0.0
    settings.MQTT_ADMIN_URL = ""  # no account is needed


def start(tenant: Any, *names: str) -> tuple[Any, list[Any]]:
    """A campaign over new devices with these names, with their keys issued."""
    from devices.services.provisioning.registration import register_device
    from devices.services.rotation import campaigns, steps
    from devices.services.rotation.selection import DeviceSelection

    with schema_context(tenant.schema_name):
        devices = [register_device(name=name)[0] for name in names]
        campaign = campaigns.start(
            name="autumn",
            selection=DeviceSelection(uuids=[device.uuid for device in devices]),
            deadline=timezone.now() + timedelta(days=7),
        )
        steps.step(campaign.pk)
        return campaign, devices


def page_of(campaign: Any, below: str = "change") -> str:
    return f"{LIST}{campaign.pk}/{below}/"


def form(**values: Any) -> dict[str, Any]:
    deadline = timezone.localtime() + timedelta(days=7)
    given = {"name": "autumn", "at_deadline": "end", "extend_days": 7, "search": "", "hardware_model": ""}
    return given | {"deadline_0": f"{deadline:%Y-%m-%d}", "deadline_1": f"{deadline:%H:%M:%S}"} | values


def test_a_rotation_is_started_with_a_form(pages: Pages, tenant_a: Any) -> None:
    from devices.models import AuditEntry, Device, RotationCampaign
    from devices.services.provisioning.registration import register_device

    with schema_context(tenant_a.schema_name):
        marked = register_device(name="marked", secret="one secret of all of them")[0]
        register_device(name="another")
        count = Device.objects.count()
    shown = pages.get(f"{LIST}add/")
    assert f"Issues new keys for all {count} devices" in shown.content.decode()
    answer = pages.post(f"{LIST}add/", form(marked="on"), follow=True)
    assert "0 of 1 now sign with their new keys" in answer.content.decode()
    with schema_context(tenant_a.schema_name):
        campaign = RotationCampaign.objects.get()
        assert campaign.members.get().device == marked
        assert AuditEntry.objects.filter(action="start rotation", user_label="an-admin").exists()


def test_a_form_says_what_is_wrong(pages: Pages, settings: Any) -> None:
    settings.INGEST_SPEC_TTL = 30.0
    nobody = pages.post(f"{LIST}add/", form(search="no such device")).content.decode()
    assert "No device is selected" in nobody
    soon = timezone.localtime() + timedelta(minutes=1)
    late = form(deadline_0=f"{soon:%Y-%m-%d}", deadline_1=f"{soon:%H:%M:%S}")
    assert "at least 5 minutes from now" in pages.post(f"{LIST}add/", late).content.decode()


def test_the_page_counts_and_lists(pages: Pages, tenant_a: Any) -> None:
    campaign, devices = start(tenant_a, "north", "south", "west")
    with schema_context(tenant_a.schema_name):
        devices[0].credentials.filter(version=2).update(in_use_since=timezone.now())
    shown = pages.get(page_of(campaign)).content.decode()
    assert "1 of 3 now signs with key 2" in shown
    assert 'aria-valuenow="33"' in shown
    assert all(name in shown for name in ("north", "south", "west", "signs with the new key"))
    assert "None." in pages.get(page_of(campaign) + "?state=left").content.decode()
    assert "1 of 3 now signs with key 2" in pages.get(LIST).content.decode()


def test_tokens_are_downloaded_once(pages: Pages, tenant_a: Any) -> None:
    from devices.models import AuditEntry

    campaign, devices = start(tenant_a, "=formula()", "plain")
    asked = pages.get(page_of(campaign, "hand-over")).content.decode()
    assert "Anyone with the file" in asked
    answer = pages.post(page_of(campaign, "hand-over"))
    assert "no-store" in answer["Cache-Control"]
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [(row["name"], row["kid"]) for row in rows] == [("'=formula()", "2"), ("plain", "2")]
    assert {row["device"] for row in rows} == {str(device.uuid) for device in devices}
    again = pages.post(page_of(campaign, "hand-over"), follow=True).content.decode()
    assert "No device of this rotation" in again
    assert rows[0]["token"] not in again
    with schema_context(tenant_a.schema_name):
        assert AuditEntry.objects.filter(action="hand over key").count() == 2


@pytest.mark.parametrize(("below", "state"), [("end", "ending"), ("roll-back", "returning")])
def test_what_ends_it_is_asked_first(pages: Pages, tenant_a: Any, below: str, state: str) -> None:
    campaign, _ = start(tenant_a, "one")
    assert pages.get(page_of(campaign, below)).status_code == 200
    with schema_context(tenant_a.schema_name):
        campaign.refresh_from_db()
        assert campaign.state == "running"
    pages.post(page_of(campaign, below))
    with schema_context(tenant_a.schema_name):
        campaign.refresh_from_db()
        assert campaign.state == state
    assert "The rotation must be running" in pages.post(page_of(campaign, "end"), follow=True).content.decode()


def test_the_deadline_is_changed(pages: Pages, tenant_a: Any) -> None:
    campaign, _ = start(tenant_a, "one")
    pages.post(page_of(campaign, "extend"), {"deadline_0": "2036-01-01", "deadline_1": "00:00:00"})
    with schema_context(tenant_a.schema_name):
        campaign.refresh_from_db()
    assert campaign.deadline.year in (2035, 2036)
    past = {"deadline_0": "2020-01-01", "deadline_1": "00:00:00"}
    assert "must be in the future" in pages.post(page_of(campaign, "extend"), past).content.decode()


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_others_look_and_change_nothing(db: None, tenant_a: Any, role: str) -> None:
    campaign, _ = start(tenant_a, "one")
    looker = Pages(ADMIN, make_user("looker", tenant_a, role))
    assert looker.get(page_of(campaign)).status_code == 200
    assert "Roll back" not in looker.get(page_of(campaign)).content.decode()
    for below in ("hand-over", "extend", "end", "roll-back"):
        assert looker.post(page_of(campaign, below)).status_code == 403
    assert looker.get(f"{LIST}add/").status_code == 403


def test_another_tenants_rotation_is_not_found(pages: Pages, tenant_b: Any) -> None:
    campaign, _ = start(tenant_b, "one")
    for below in ("hand-over", "extend", "end", "roll-back"):
        assert pages.post(page_of(campaign, below)).status_code == 404


@pytest.mark.parametrize("width", [390, 1280])
def test_the_pages_fit(live_db: None, visit: Callable[..., Any], tenant_a: Any, tmp_path: Path, width: int) -> None:
    campaign, devices = start(tenant_a, *(f"greenhouse {number}" for number in range(8)))
    with schema_context(tenant_a.schema_name):
        for device in devices[:6]:
            device.credentials.filter(version=2).update(in_use_since=timezone.now())

    def script(page: Any) -> dict[str, int]:
        sign_in(page, ADMIN, "owner-alpha")
        widths = {}
        for name, below in {"page": page_of(campaign), "form": f"{LIST}add/", "list": LIST}.items():
            page.goto(ADMIN + below)
            page.screenshot(path=tmp_path / f"{name}-{width}.png", full_page=True)
            widths[name] = overflow(page)
        return widths

    assert visit(script, width=width) == {"page": 0, "form": 0, "list": 0}
