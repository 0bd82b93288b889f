"""History, timeline, availability, freshness, maintenance windows and the rules of presence."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import AuditEntry, Component, DeviceStatus, HardwareModel, MaintenanceWindow, PresenceSettings
from devices.models import Device as DeviceModel
from tests.factories import add_change, add_readings, add_series, make_device

from .client import HOUR, Api, problems

SECOND = datetime.timedelta(seconds=1)
# Past, whatever the machine's clock says: what is not past yet is in no timeline.
T0 = datetime.datetime(2024, 11, 22, 9, 30, tzinfo=datetime.UTC)


@pytest.fixture
def recorded_device(tenant_a: Any, greenhouse: Any) -> Any:
    """A device that connected at T0, timed out an hour later, was OFFLINE at two, and back at three hours."""
    add_change(tenant_a, greenhouse, "ONLINE", "birth", T0, session="first")
    silent = T0 + HOUR - 120 * SECOND
    add_change(tenant_a, greenhouse, "TIMEOUT", "timeout", T0 + HOUR, session="first", evidence_at=silent)
    add_change(tenant_a, greenhouse, "OFFLINE", "will", T0 + 2 * HOUR, session="first", suppressed_by="flapping")
    add_change(tenant_a, greenhouse, "ONLINE", "telemetry", T0 + 3 * HOUR)
    return greenhouse


# --- the ledger ---------------------------------------------------------------------------------------------


def test_the_history_tells_each_change_with_its_evidence(api: Api, recorded_device: Any) -> None:
    rows = api.get(f"devices/{recorded_device.uuid}/history/").json()
    assert rows["next"] is None
    newest, offline, timeout, birth = rows["results"]
    assert timeout == {
        "from": "ONLINE",
        "to": "TIMEOUT",
        "cause": "timeout",
        "session": "first",
        "evidence_at": "2024-11-22T10:28:00Z",
        "at": "2024-11-22T10:30:00Z",
        "description": "No message since 2024-11-22 10:28:00 UTC. The timeout passed at 2024-11-22 10:30:00 UTC,"
        " 2 min later. Session first.",
        "suppressed_by": None,
    }
    assert (offline["suppressed_by"], offline["from"], offline["to"]) == ("flapping", "TIMEOUT", "OFFLINE")
    assert offline["description"].startswith(
        "Connection lost or closed: the will was received at 2024-11-22 11:30:00 UTC."
    )
    assert (newest["session"], newest["description"]) == ("", "Live telemetry received at 2024-11-22 12:30:00 UTC.")
    assert birth["description"] == "Birth message received at 2024-11-22 09:30:00 UTC. Session first."


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"cause": "will"}, ["OFFLINE"]),
        ({"status": "ONLINE"}, ["ONLINE", "ONLINE"]),
        ({"status": "ONLINE", "cause": "birth"}, ["ONLINE"]),
        ({"from": "2024-11-22T11:30:00Z"}, ["ONLINE", "OFFLINE"]),
        ({"from": "2024-11-22T19:30:00+09:00", "to": "2024-11-22T11:30:00Z"}, ["TIMEOUT"]),
        ({"to": "2024-11-22T09:30:00Z"}, []),
    ],
)
def test_the_history_is_narrowed(api: Api, recorded_device: Any, query: dict[str, Any], expected: list[str]) -> None:
    rows = api.get(f"devices/{recorded_device.uuid}/history/", **query).json()["results"]
    assert [row["to"] for row in rows] == expected


def test_pages_of_the_history_follow_each_other(api: Api, recorded_device: Any, tenant_a: Any) -> None:
    page = api.get(f"devices/{recorded_device.uuid}/history/", limit=1).json()
    seen = page["results"]
    # What comes meanwhile is newer than what is read: it shifts nothing.
    add_change(tenant_a, recorded_device, "OFFLINE", "will", T0 + 4 * HOUR)
    while page["next"]:
        page = api.get(page["next"]).json()
        seen += page["results"]
    assert [row["to"] for row in seen] == ["ONLINE", "OFFLINE", "TIMEOUT", "ONLINE"]


def test_a_cursor_of_another_device_does_not_help(api: Api, recorded_device: Any, tenant_a: Any) -> None:
    following = api.get(f"devices/{recorded_device.uuid}/history/", limit=1).json()["next"]
    other = make_device(tenant_a)
    answer = api.get(following.replace(str(recorded_device.uuid), str(other.uuid)))
    assert "does not belong to this list" in problems(answer)["cursor"]


@pytest.mark.parametrize(
    ("path", "query", "attr", "text"),
    [
        ("history/", {"status": "online"}, "status", "must be one of UNKNOWN, ONLINE"),
        ("history/", {"cause": "fate"}, "cause", "must be one of telemetry, birth"),
        ("history/", {"since": "2024-11-22T09:30:00Z"}, "since", "'since' is not a known parameter"),
        ("history/", {"from": "2024-11-22T09:30:00"}, "from", "has no offset"),
        ("history/", {"cursor": "made-up"}, "cursor", "does not belong to this list"),
        ("timeline/", {"from": "2024-11-22T09:30:00Z", "to": "2024-11-22T09:30:00Z"}, "from", "earlier than"),
        ("timeline/", {"from": "2020-01-01T00:00:00Z", "to": "2022-01-01T00:00:00Z"}, "from", "longer than 366 days"),
        ("availability/", {"month": "2026-13"}, "month", "use a form such as 2026-11"),
        ("availability/", {"month": "0001-01"}, "month", "is not a valid month"),
        ("availability/", {"months": "0"}, "months", "'months' must be a whole number from 1 to 36, not '0'"),
        ("availability/", {"months": "37"}, "months", "'months' must be a whole number from 1 to 36, not '37'"),
        ("availability/", {"timezone": "Mars/Olympus"}, "timezone", "is not a valid time zone"),
        ("availability/", {"timezone": "../../etc/passwd"}, "timezone", "is not a valid time zone"),
    ],
)
def test_a_question_that_is_wrong_says_what_to_mend(
    api: Api, greenhouse: Any, path: str, query: dict[str, str], attr: str, text: str
) -> None:
    answer = api.get(f"devices/{greenhouse.uuid}/{path}", **query)
    assert answer.status_code == 400
    assert text in problems(answer)[attr]


# --- time ---------------------------------------------------------------------------------------------------


def test_a_timeline_is_without_gap_and_knows_what_was_before(api: Api, recorded_device: Any, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        MaintenanceWindow.objects.create(device=recorded_device, starts_at=T0, ends_at=T0 + HOUR, reason="new pump")
    answer = api.get(
        f"devices/{recorded_device.uuid}/timeline/", **{"from": "2024-11-22T10:00:00Z", "to": "2024-11-22T12:00:00Z"}
    ).json()
    assert answer == {
        "from": "2024-11-22T10:00:00Z",
        "to": "2024-11-22T12:00:00Z",
        "results": [
            {"status": "ONLINE", "from": "2024-11-22T10:00:00Z", "to": "2024-11-22T10:30:00Z"},
            {"status": "TIMEOUT", "from": "2024-11-22T10:30:00Z", "to": "2024-11-22T11:30:00Z"},
            {"status": "OFFLINE", "from": "2024-11-22T11:30:00Z", "to": "2024-11-22T12:00:00Z"},
        ],
        "maintenance_windows": [
            {"starts_at": "2024-11-22T09:30:00Z", "ends_at": "2024-11-22T10:30:00Z", "description": "new pump"}
        ],
    }


def test_before_the_first_change_nothing_is_known(api: Api, recorded_device: Any) -> None:
    rows = api.get(
        f"devices/{recorded_device.uuid}/timeline/", **{"from": "2024-11-22T09:00:00Z", "to": "2024-11-22T10:00:00Z"}
    ).json()["results"]
    assert [row["status"] for row in rows] == ["UNKNOWN", "ONLINE"]


def test_a_timeline_is_of_the_last_24_hours_and_ends_now(api: Api, greenhouse: Any) -> None:
    answer = api.get(f"devices/{greenhouse.uuid}/timeline/", to="2999-01-01T00:00:00Z").json()
    since, until = (datetime.datetime.fromisoformat(answer[name]) for name in ("from", "to"))
    assert until - since == datetime.timedelta(days=1)
    assert abs(timezone.now() - until) < 10 * SECOND
    assert [row["status"] for row in answer["results"]] == ["UNKNOWN"]


@pytest.mark.parametrize("times", [{"to": "0001-01-01T00:00:00Z"}, {"from": "9999-12-31T23:59:59Z"}])
def test_a_timeline_at_the_ends_of_the_calendar_is_empty(api: Api, greenhouse: Any, times: dict[str, str]) -> None:
    answer = api.get(f"devices/{greenhouse.uuid}/timeline/", **times)
    assert (answer.status_code, answer.json()["results"]) == (200, [])


@pytest.fixture
def october(tenant_a: Any, greenhouse: Any) -> Any:
    """ONLINE since the middle of September; in October of UTC's calendar an outage of an hour and one of three."""
    begin = datetime.datetime(2024, 10, 1, tzinfo=datetime.UTC)
    add_change(tenant_a, greenhouse, "ONLINE", "birth", begin - 14 * 24 * HOUR)
    for hour, length in ((2, 1), (300, 3)):
        add_change(tenant_a, greenhouse, "OFFLINE", "will", begin + hour * HOUR)
        add_change(tenant_a, greenhouse, "ONLINE", "birth", begin + (hour + length) * HOUR)
    return greenhouse


def test_availability_of_a_month(api: Api, october: Any) -> None:
    answer = api.get(f"devices/{october.uuid}/availability/", month="2024-10").json()
    hours = 31 * 24
    assert answer == {
        "timezone": "UTC",
        "results": [
            {
                "month": "2024-10",
                "from": "2024-10-01T00:00:00Z",
                "to": "2024-11-01T00:00:00Z",
                "percent": pytest.approx(100 * (hours - 4) / hours),
                "outages": 2,
                "longest_outage_seconds": 3 * 3600,
                "mean_time_between_failures_seconds": (hours - 4) / 2 * 3600,
                "known_seconds": hours * 3600,
            }
        ],
    }


def test_months_are_of_the_calendar_that_is_asked_for(api: Api, october: Any) -> None:
    """The first outage, at 02:00 UTC, is in October in Seoul and still in September in Honolulu."""
    answers = {
        zone: api.get(f"devices/{october.uuid}/availability/", month="2024-10", months=3, timezone=zone).json()
        for zone in ("Asia/Seoul", "Pacific/Honolulu")
    }
    outages = {z: [(m["month"], m["outages"]) for m in answer["results"]] for z, answer in answers.items()}
    assert outages == {
        "Asia/Seoul": [("2024-10", 2), ("2024-09", 0), ("2024-08", 0)],
        "Pacific/Honolulu": [("2024-10", 1), ("2024-09", 1), ("2024-08", 0)],
    }
    assert answers["Asia/Seoul"]["results"][0]["from"] == "2024-09-30T15:00:00Z"
    august = answers["Asia/Seoul"]["results"][2]
    assert (august["percent"], august["mean_time_between_failures_seconds"], august["known_seconds"]) == (None, None, 0)


def test_maintenance_is_no_outage(api: Api, october: Any, tenant_a: Any) -> None:
    begin = datetime.datetime(2024, 10, 1, tzinfo=datetime.UTC)
    with schema_context(tenant_a.schema_name):
        MaintenanceWindow.objects.create(device=october, starts_at=begin + HOUR, ends_at=begin + 4 * HOUR)
    (month,) = api.get(f"devices/{october.uuid}/availability/", month="2024-10").json()["results"]
    assert (month["outages"], month["longest_outage_seconds"]) == (1, 3 * 3600)
    assert month["known_seconds"] == (31 * 24 - 3) * 3600


def test_this_month_ends_now(api: Api, greenhouse: Any) -> None:
    (month,) = api.get(f"devices/{greenhouse.uuid}/availability/").json()["results"]
    now = timezone.now()
    assert month["month"] == f"{now:%Y-%m}"
    assert abs(now - datetime.datetime.fromisoformat(month["to"])) < 10 * SECOND
    coming = api.get(f"devices/{greenhouse.uuid}/availability/", month="2999-12").json()["results"][0]
    assert (coming["from"], coming["percent"]) == (coming["to"], None)


def test_a_year_costs_no_more_than_a_month(
    api: Api, october: Any, count_queries: Callable[[Callable[[], Any]], int]
) -> None:
    address = f"devices/{october.uuid}/availability/"
    api.get(address)  # notes when the key was last used
    assert count_queries(lambda: api.get(address, months=12)) == count_queries(lambda: api.get(address)) <= 7


# --- the device's own page ----------------------------------------------------------------------------------


def test_a_device_says_why_and_how_long_it_may_be_silent(api: Api, recorded_device: Any, tenant_a: Any) -> None:
    device = api.get(f"devices/{recorded_device.uuid}/").json()
    assert device["status_description"] == "Live telemetry received at 2024-11-22 12:30:00 UTC."
    assert (device["flapping"], device["in_maintenance"]) == (False, False)
    assert (device["effective_timeout_seconds"], device["timeout_source"]) == (120, "interval")
    now = timezone.now()
    with schema_context(tenant_a.schema_name):
        DeviceStatus.objects.filter(device=recorded_device).update(flapping_until=now + HOUR)
        MaintenanceWindow.objects.create(device=recorded_device, starts_at=now - HOUR, ends_at=now + HOUR)
        PresenceSettings(timeout_seconds=600).save()
    device = api.get(f"devices/{recorded_device.uuid}/").json()
    assert (device["flapping"], device["in_maintenance"]) == (True, True)
    assert (device["effective_timeout_seconds"], device["timeout_source"]) == (600, "tenant")
    with schema_context(tenant_a.schema_name):
        model = HardwareModel.objects.create(name="slow board", version="1", timeout_seconds=900)
        DeviceModel.objects.filter(pk=recorded_device.pk).update(hardware_model=model)
    (listed,) = api.get("devices/").json()["results"]
    assert (listed["effective_timeout_seconds"], listed["timeout_source"], listed["timeout_seconds"]) == (
        900,
        "model",
        None,
    )
    assert listed == api.get(f"devices/{recorded_device.uuid}/").json()


def test_a_device_that_never_spoke_has_no_why(api: Api, greenhouse: Any) -> None:
    device = api.get(f"devices/{greenhouse.uuid}/").json()
    assert (device["status"], device["status_description"]) == ("UNKNOWN", None)


def test_switching_a_device_off_shows_in_the_answer(api: Api, recorded_device: Any) -> None:
    answer = api.patch(f"devices/{recorded_device.uuid}/", {"active": False}).json()
    assert (answer["active"], answer["status"], answer["status_cause"]) == (False, "UNKNOWN", "staff")
    assert answer["status_description"].startswith("Deactivated by a user at ")


def test_components_are_fresh_stale_or_never_heard(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    now = timezone.now()
    temperature = add_series(tenant_a, greenhouse, "dht22", "temperature", "°C")
    add_readings(tenant_a, temperature, (now - 90 * SECOND, 20))

    def shown() -> dict[str, tuple[str, int]]:
        device = api.get(f"devices/{greenhouse.uuid}/").json()
        listed = api.get("components/", device=greenhouse.uuid).json()["results"]
        nested = [{"device": device["uuid"], **component} for component in device["components"]]
        assert nested == listed
        assert api.get(f"components/{listed[0]['id']}/").json() == listed[0]
        return {one["key"]: (one["freshness"], one["effective_interval_seconds"]) for one in listed}

    with schema_context(tenant_a.schema_name):
        usual = Component.objects.get(device=greenhouse, key="relay").component_type.expected_interval
        component = Component.objects.get(device=greenhouse, key="dht22").pk
    assert shown() == {"dht22": ("FRESH", 60), "relay": ("NEVER", usual)}
    changed = api.patch(f"components/{component}/", {"expected_interval": 20}).json()
    assert (changed["freshness"], changed["expected_interval"]) == ("STALE", 20)
    assert shown()["dht22"] == ("STALE", 20)
    # What comes late is as old as it says.
    add_readings(tenant_a, temperature, (now - 3 * HOUR, 20))
    assert api.get(f"components/{component}/").json()["last_reading_at"] == changed["last_reading_at"]


# --- what people set ----------------------------------------------------------------------------------------


def test_a_maintenance_window_is_made_moved_and_taken_away(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    now = timezone.now()
    times = {"starts_at": (now - HOUR).isoformat(), "ends_at": (now + HOUR).isoformat()}
    window = api.post(
        "maintenance-windows/", {"device": str(greenhouse.uuid), "description": "new pump", **times}
    ).json()
    assert (window["device"], window["description"]) == (str(greenhouse.uuid), "new pump")
    assert api.get(f"devices/{greenhouse.uuid}/").json()["in_maintenance"]
    assert api.get("maintenance-windows/", ongoing="true", device=greenhouse.uuid).json()["results"] == [window]
    assert api.get("maintenance-windows/", ongoing="false").json()["results"] == []
    address = f"maintenance-windows/{window['id']}/"
    moved = api.patch(address, {"ends_at": (now - SECOND).isoformat()}).json()
    assert moved["starts_at"] == window["starts_at"]
    assert not api.get(f"devices/{greenhouse.uuid}/").json()["in_maintenance"]
    assert api.delete(address).status_code == 204
    with schema_context(tenant_a.schema_name):
        entries = AuditEntry.objects.filter(object_type="devices.maintenancewindow").order_by("id")
        assert [entry.action for entry in entries] == ["add", "change", "remove"]


@pytest.mark.parametrize(
    ("body", "attr", "text"),
    [
        ({"ends_at": "2024-11-22T09:30:00Z"}, "ends_at", "must be later than the start"),
        ({"ends_at": "2024-11-22T12:30:00"}, "ends_at", "has no offset"),
        ({"device": "00000000-0000-4000-8000-000000000000"}, "device", "There is no device with the UUID"),
        ({"starts_at": None}, "starts_at", "must not be null"),
    ],
)
def test_a_window_that_is_wrong_says_what_to_mend(
    api: Api, greenhouse: Any, body: dict[str, Any], attr: str, text: str
) -> None:
    right = {"starts_at": "2024-11-22T09:30:00Z", "ends_at": "2024-11-22T10:30:00Z", "device": str(greenhouse.uuid)}
    answer = api.post("maintenance-windows/", right | body)
    assert answer.status_code == 400
    assert text in problems(answer)[attr]


def test_a_window_stays_with_its_device(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        window = MaintenanceWindow.objects.create(device=greenhouse, starts_at=T0, ends_at=T0 + HOUR)
    answer = api.patch(f"maintenance-windows/{window.pk}/", {"device": str(greenhouse.uuid)})
    assert "cannot be changed" in problems(answer)["device"]


def test_the_rules_of_presence_are_read_and_changed(api: Api, tenant_a: Any) -> None:
    defaults = {"timeout_seconds": 60, "flapping_changes": 6, "flapping_window_seconds": 600}
    assert api.get("presence-settings/").json() == defaults
    assert api.patch("presence-settings/", {"flapping_changes": 4}).json() == defaults | {"flapping_changes": 4}
    assert api.patch("presence-settings/", {"timeout_seconds": 90}).json()["flapping_changes"] == 4
    assert api.get("presence-settings/").json()["timeout_seconds"] == 90
    refused = api.patch("presence-settings/", {"flapping_changes": 1})
    assert "must be at least 2, not 1" in problems(refused)["flapping_changes"]
    assert "is not a known member" in problems(api.patch("presence-settings/", {"id": 2}))["id"]
    with schema_context(tenant_a.schema_name):
        assert PresenceSettings.objects.count() == 1
        details = AuditEntry.objects.filter(object_type="devices.presencesettings").order_by("id")
        assert [entry.detail for entry in details] == ["flapping_changes", "timeout_seconds"]
