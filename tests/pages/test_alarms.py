"""Alarms and their rules in the tenant's admin."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_tenants.utils import schema_context

from alarms.models import AlarmEpisode, AlarmRule, AlarmTransition
from devices.models import AuditEntry, ComponentType, Metric
from tests.factories import make_device, make_user

from .client import ADMIN, Pages

LEVELS = [{"severity": "warning", "raise": 30, "clear": 29}]


def form(tenant: Any, **values: Any) -> dict[str, Any]:
    """What a browser sends for a new rule."""
    with schema_context(tenant.schema_name):
        kind = ComponentType.objects.get(key="dht22")
        metric = Metric.objects.get(component_type=kind, key="temperature")
    filled = {
        "name": "too warm",
        "description": "",
        "kind": "threshold",
        "component_type": kind.pk,
        "metric": metric.pk,
        "levels": json.dumps(LEVELS),
        "max_gap_seconds": "",
        "enabled": "on",
    }
    return filled | values


@pytest.fixture
def alarm(pages: Pages, device: Any, tenant_a: Any) -> AlarmEpisode:
    """An open alarm of the device."""
    pages.post("alarms/alarmrule/add/", form(tenant_a))
    with schema_context(tenant_a.schema_name):
        made = AlarmEpisode.objects.create(
            rule=AlarmRule.objects.get(),
            rule_version=1,
            device=device,
            component="dht22",
            metric="temperature",
            state="ACTIVE",
            severity="warning",
            started_at=datetime.now(UTC) - timedelta(hours=1),
            value=31.5,
            unit="°C",
        )
        AlarmTransition.objects.create(
            episode=made,
            at=made.started_at,
            from_state="NORMAL",
            to_state="ACTIVE",
            severity="warning",
            cause="reading",
            rule_version=1,
            value=31.5,
            unit="°C",
        )
    return made


def test_a_rule_is_added_changed_and_removed(pages: Pages, tenant_a: Any) -> None:
    assert pages.get("alarms/alarmrule/add/").status_code == 200
    assert pages.post("alarms/alarmrule/add/", form(tenant_a)).status_code == 302
    with schema_context(tenant_a.schema_name):
        rule = AlarmRule.objects.get()
        assert (rule.version, rule.levels, rule.versions.count()) == (1, LEVELS, 1)
    page = f"alarms/alarmrule/{rule.pk}/"
    assert b"too warm" in pages.get(f"{page}change/").content
    changed = {"name": "far too warm", "levels": json.dumps(LEVELS), "enabled": "on", "max_gap_seconds": "90"}
    assert pages.post(f"{page}change/", changed).status_code == 302
    with schema_context(tenant_a.schema_name):
        rule.refresh_from_db()
        assert (rule.name, rule.version, rule.max_gap_seconds) == ("far too warm", 2, 90)
    assert b"far too warm" in pages.get("alarms/alarmrule/").content
    assert pages.get(f"{page}delete/").status_code == 200
    assert pages.post(f"{page}delete/", {"post": "yes"}).status_code == 302
    pages.get("alarms/alarmrule/")  # shows the message of the removal
    assert b"far too warm" not in pages.get("alarms/alarmrule/").content
    with schema_context(tenant_a.schema_name):
        rule.refresh_from_db()
        assert rule.removed_at is not None
        entries = AuditEntry.objects.filter(object_type="alarms.alarmrule").order_by("pk")
        assert list(entries.values_list("action", flat=True)) == ["add", "change", "remove"]


def test_a_rule_for_silence_has_no_metric(pages: Pages, tenant_a: Any) -> None:
    levels = [{"severity": "minor", "raise_after_intervals": 3}]
    given = form(tenant_a, kind="no_data", metric="", levels=json.dumps(levels))
    assert pages.post("alarms/alarmrule/add/", given).status_code == 302
    with schema_context(tenant_a.schema_name):
        rule = AlarmRule.objects.get()
        assert (rule.metric, rule.levels) == (None, levels)
    assert pages.get("alarms/alarmrule/").status_code == 200
    page = f"alarms/alarmrule/{rule.pk}/change/"
    assert pages.get(page).status_code == 200
    levels[0]["raise_after_intervals"] = 5
    changed = {"name": "silent", "levels": json.dumps(levels), "enabled": "on", "max_gap_seconds": ""}
    assert pages.post(page, changed).status_code == 302
    with schema_context(tenant_a.schema_name):
        rule.refresh_from_db()
        assert (rule.version, rule.levels) == (2, levels)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "no_data"}, "none for the kind"),
        ({"metric": ""}, "Choose a metric"),
        ({"kind": "no_data", "metric": "", "max_gap_seconds": "60"}, "Leave it empty"),
        ({"kind": "no_data", "metric": ""}, "is not a known member"),
        ({"levels": json.dumps([{**LEVELS[0], "clear": 31}])}, "safe side"),
        ({"levels": "{"}, "valid JSON"),
        ({"levels": "3"}, "1 to 5 levels"),
        ({"name": ""}, "required"),
    ],
)
def test_an_invalid_rule_says_what_to_mend(pages: Pages, tenant_a: Any, values: dict[str, str], words: str) -> None:
    answer = pages.post("alarms/alarmrule/add/", form(tenant_a, **values))
    assert answer.status_code == 200
    assert words in answer.content.decode()
    with schema_context(tenant_a.schema_name):
        assert not AlarmRule.objects.exists()


def test_an_open_alarm_is_on_its_pages(pages: Pages, alarm: AlarmEpisode, device: Any, tenant_a: Any) -> None:
    other = make_device(tenant_a, "another")
    for page in ("alarms/alarmepisode/", f"devices/device/{device.pk}/change/"):
        content = pages.get(page).content.decode()
        assert "too warm" in content, page
        assert "31.5 °C" in content, page
    assert "Open alarms" not in pages.get(f"devices/device/{other.pk}/change/").content.decode()
    content = pages.get(f"alarms/alarmepisode/{alarm.pk}/change/").content.decode()
    assert "The value 31.5 °C raised the alarm as warning." in content


def test_operators_acknowledge_and_viewers_do_not(alarm: AlarmEpisode, tenant_a: Any) -> None:
    body = {"action": "acknowledge_selected", "_selected_action": [alarm.pk]}
    viewer = Pages(ADMIN, make_user("a-viewer", tenant_a, "viewer"))
    viewer.post("alarms/alarmepisode/", body)
    with schema_context(tenant_a.schema_name):
        alarm.refresh_from_db()
        assert alarm.acknowledged_at is None
    assert viewer.get("alarms/alarmrule/add/").status_code == 403
    operator = Pages(ADMIN, make_user("an-operator", tenant_a, "operator"))
    assert operator.post("alarms/alarmepisode/", body).status_code == 302
    with schema_context(tenant_a.schema_name):
        alarm.refresh_from_db()
        assert (alarm.acknowledged_by, alarm.transitions.count()) == ("an-operator", 2)
