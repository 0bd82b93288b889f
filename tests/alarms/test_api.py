"""Rules, their preview, and alarms in the API."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_tenants.utils import schema_context

from alarms.domain.evaluation import EventPosition, EventRank, Sample
from alarms.domain.rule_levels import parse_levels
from alarms.domain.rules import RuleVersion
from tests.api.client import Api, problems
from tests.factories import issue_key, register_device

from .conftest import CRITICAL, WARNING, Greenhouse
from .oracle import expected_changes

RULE = {
    "name": "too warm",
    "kind": "threshold",
    "component_type": "dht22",
    "metric": "temperature",
    "levels": [
        {"severity": "warning", "raise": 30, "clear": 29, "raise_after_seconds": 0, "clear_after_seconds": 0},
    ],
}


@pytest.fixture
def api(tenant: Any, settings: Any) -> Api:
    settings.API_REQUESTS_PER_MINUTE = 0
    return Api(tenant.slug, key=issue_key(tenant))


def post(api: Api, path: str, body: Any) -> Any:
    return api.send("post", path, body)


@pytest.fixture
def recent(greenhouse: Greenhouse) -> Greenhouse:
    """The greenhouse, whose minutes are those from now on minus one."""
    greenhouse.begin = datetime.now(UTC) - timedelta(minutes=1)
    return greenhouse


def test_an_alarm_from_the_rule_to_the_end(api: Api, recent: Greenhouse) -> None:
    made = post(api, "alarm-rules/", RULE)
    assert made.status_code == 201, made.content
    rule = made.json()
    assert (rule["version"], rule["unit"], rule["enabled"], rule["selector"]) == (1, "°C", True, {})
    assert {name: rule[name] for name in RULE} == RULE
    recent.begin = datetime.now(UTC)
    recent.store((0, 31.5))
    recent.evaluate()
    answer = api.get("alarms/", device=recent.device.uuid, state="active").json()
    [alarm] = answer["results"]
    assert alarm | {"id": 0} == {
        "id": 0,
        "rule": rule["id"],
        "rule_name": "too warm",
        "rule_version": 1,
        "device": recent.device.uuid,
        "component": "dht22",
        "metric": "temperature",
        "state": "active",
        "severity": "warning",
        "started_at": alarm["started_at"],
        "ended_at": None,
        "value": 31.5,
        "unit": "°C",
        "late": False,
        "suppressed_by": "",
        "acknowledged_at": None,
        "acknowledged_by": "",
        "note": "",
        "shelved_until": None,
        "retracted_at": None,
        "count": 1,
    }
    address = f"alarms/{alarm['id']}/"
    acknowledged = post(api, f"{address}acknowledge/", {"note": "on my way"}).json()
    assert (acknowledged["state"], acknowledged["note"]) == ("acknowledged", "on my way")
    assert post(api, f"{address}acknowledge/", {"note": "again"}).json()["note"] == "on my way"
    assert api.get("alarms/", state="active").json()["count"] == 0
    assert api.get("alarms/", state="acknowledged").json()["count"] == 1
    recent.store((0.1, 28))
    recent.evaluate()
    ended = api.get(address).json()
    assert (ended["state"], ended["severity"]) == ("ended", "warning")
    assert api.get("alarms/", state="ended").json()["results"] == [ended]
    history = api.get(f"{address}history/").json()["results"]
    by_readings = [one for one in history if one["cause"] == "reading"]
    assert [(one["from_state"], one["to_state"], one["value"]) for one in by_readings] == [
        ("normal", "active", 31.5),
        ("active", "ended", 28),
    ]
    assert [one["note"] for one in history if one["cause"] == "acknowledged"] == ["on my way"]
    assert history[0]["fingerprint"]
    assert history[0]["received_at"]
    assert history[0]["description"] == "The value 31.5 °C raised the alarm as warning."
    refused = post(api, f"{address}acknowledge/", {})
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")


def test_an_end_by_hand_raises_again_what_still_holds(api: Api, recent: Greenhouse) -> None:
    recent.add_rule()
    recent.store((0.5, 35))
    recent.evaluate()
    [first] = api.get("alarms/").json()["results"]
    ended = post(api, f"alarms/{first['id']}/end/", {"reason": "a test"}).json()
    assert ended["state"] == "ended"
    [again] = api.get("alarms/", state="active").json()["results"]
    assert (again["id"] != first["id"], again["value"]) == (True, 35)
    last = api.get(f"alarms/{first['id']}/history/").json()["results"][-1]
    assert (last["cause"], last["note"], last["to_state"]) == ("ended_by_user", "a test", "ended")
    recent.store((0.9, 29.5))
    recent.evaluate()
    post(api, f"alarms/{again['id']}/end/", {"reason": "it is well"})
    assert api.get("alarms/", state="active").json()["count"] == 0
    assert recent.evaluate() == 0


def test_an_alarm_is_shelved_for_seven_days_at_most(api: Api, recent: Greenhouse) -> None:
    recent.add_rule()
    recent.store((0.5, 35))
    recent.evaluate()
    [alarm] = api.get("alarms/").json()["results"]
    address, now = f"alarms/{alarm['id']}/shelve/", datetime.now(UTC)
    shelved = post(api, address, {"until": (now + timedelta(days=6)).isoformat(), "reason": "known"}).json()
    assert shelved["suppressed_by"] == "shelved"
    assert post(api, address, {"until": None}).json()["suppressed_by"] == ""
    history = api.get(f"alarms/{alarm['id']}/history/").json()["results"][-2:]
    until = datetime.fromisoformat(history[0]["shelved_until"])
    assert [(one["cause"], one["note"]) for one in history] == [("shelved", "known"), ("unshelved", "")]
    assert f"shelved the alarm until {until:%Y-%m-%d %H:%M} UTC." in history[0]["description"]
    assert until == now + timedelta(days=6)
    assert history[1]["description"].endswith(" ended the shelving of the alarm.")
    assert history[1]["shelved_until"] is None
    for until in (now + timedelta(days=8), now - timedelta(hours=1)):
        refused = post(api, address, {"until": until.isoformat()})
        assert (refused.status_code, list(problems(refused))) == (400, ["until"])


def test_recovering_alarms_are_selected_until_they_are_acknowledged(api: Api, recent: Greenhouse) -> None:
    recent.add_rule({**WARNING, "clear_after_seconds": 3600})
    recent.store((0.2, 35), (0.5, 20))
    recent.evaluate()
    [alarm] = api.get("alarms/", state="recovering").json()["results"]
    assert (alarm["state"], api.get("alarms/", state="active").json()["count"]) == ("recovering", 1)
    post(api, f"alarms/{alarm['id']}/acknowledge/", {})
    assert api.get("alarms/", state="recovering").json()["count"] == 0
    [acknowledged] = api.get("alarms/", state="acknowledged").json()["results"]
    assert (acknowledged["id"], acknowledged["state"]) == (alarm["id"], "acknowledged")


@pytest.mark.parametrize(
    ("change", "member", "text"),
    [
        ({"levels": [{**WARNING, "clear": 31}]}, "levels", "must lie on the safe side of 'raise'"),
        ({"levels": []}, "levels", "1 to 5 levels"),
        ({"levels": [WARNING, WARNING]}, "levels", "Level 2: another level has the severity warning."),
        ({"levels": [{**WARNING, "colour": "red"}]}, "levels", "'colour' is not a known member"),
        ({"levels": [{"severity": "warning", "raise": 30}]}, "levels", "'clear' is missing"),
        ({"levels": [{**WARNING, "raise": "30"}]}, "levels", "'raise' must be a number, not '30'"),
        ({"levels": [{**WARNING, "raise": True}]}, "levels", "'raise' must be a number, not true"),
        ({"levels": [{**WARNING, "raise": 10**400}]}, "levels", "within the range of 64-bit floats, not 10000"),
        ({"levels": [{**WARNING, "clear": -(10**400)}]}, "levels", "within the range of 64-bit floats, not -1000"),
        ({"levels": [{**WARNING, "raise": 2**53 + 1}]}, "levels", "represents exactly, not 9007199254740993"),
        ({"levels": [{**WARNING, "severity": None}]}, "levels", "not null"),
        (
            {"kind": "outside", "levels": [{**WARNING, "raise": [-(10**400), 3], "clear": [1, 2]}]},
            "levels",
            "'raise' must be a number within the range",
        ),
        ({"component_type": 7}, "component_type", "There is no component type 7"),
        ({"levels": [{**WARNING, "severity": "loud"}]}, "levels", "one of info, warning"),
        ({"levels": [{**WARNING, "raise_after_seconds": 604801}]}, "levels", "from 0 to 604800"),
        ({"levels": [{**WARNING, "direction": "left"}]}, "levels", "above or below"),
        ({"levels": [{**CRITICAL, "direction": "below", "clear": 45}, WARNING]}, "levels", "same 'direction'"),
        (
            {"levels": [{**WARNING, "severity": "critical"}, {**CRITICAL, "severity": "info"}]},
            "levels",
            "not be reached",
        ),
        ({"kind": "outside"}, "levels", "a list of two numbers"),
        ({"metric": "pressure"}, "metric", "There is no metric pressure"),
        ({"component_type": "nothing"}, "component_type", "There is no component type nothing"),
        ({"colour": "red"}, "colour", "not a known member"),
        ({"selector": {"places": ["nowhere"]}}, "selector.places", "do not exist"),
    ],
)
def test_an_invalid_rule_is_refused_with_its_cause(api: Api, change: Any, member: str, text: str) -> None:
    answer = post(api, "alarm-rules/", RULE | change)
    assert answer.status_code == 400, answer.content
    assert text in problems(answer)[member]
    assert api.get("alarm-rules/").json()["count"] == 0


def test_rules_are_changed_and_removed(api: Api, recent: Greenhouse) -> None:
    rule = post(api, "alarm-rules/", RULE).json()
    assert post(api, "alarm-rules/", RULE).status_code == 409
    changed = api.send("patch", f"alarm-rules/{rule['id']}/", {"levels": [CRITICAL], "selector": {"tags": ["roses"]}})
    assert (changed.json()["version"], changed.json()["selector"]) == (2, {"tags": ["roses"]})
    refused = api.send("patch", f"alarm-rules/{rule['id']}/", {"metric": "humidity"})
    assert (refused.status_code, list(problems(refused))) == (400, ["metric"])
    refused = api.send("patch", f"alarm-rules/{rule['id']}/", {"levels": [{**WARNING, "clear": 99}]})
    assert (refused.status_code, api.get(f"alarm-rules/{rule['id']}/").json()["version"]) == (400, 2)
    assert api.send("delete", f"alarm-rules/{rule['id']}/").status_code == 204
    assert api.get(f"alarm-rules/{rule['id']}/").status_code == 404
    assert post(api, "alarm-rules/", RULE).status_code == 201


def test_a_band_raises_on_both_sides(api: Api, recent: Greenhouse) -> None:
    levels = [{"severity": "minor", "raise": [10, 30], "clear": [12, 28]}]
    assert post(api, "alarm-rules/", RULE | {"kind": "outside", "levels": levels}).status_code == 201
    recent.begin = datetime.now(UTC)
    recent.store((0.01, 9), (0.02, 11), (0.03, 12), (0.04, 31))
    recent.evaluate()
    assert [one["state"] for one in api.get("alarms/").json()["results"]] == ["active", "ended"]


@pytest.mark.parametrize("rolled", [False, True])
def test_a_preview_has_the_episodes_of_a_whole_evaluation(api: Api, greenhouse: Greenhouse, rolled: bool) -> None:
    greenhouse.begin = (datetime.now(UTC) - timedelta(days=3)).replace(minute=0, second=0, microsecond=0)
    source, readings = random.Random(9), []
    for minute in range(0, 60 * 48, 20):
        is_warm = (minute // 60) % 12 in (3, 4)
        readings.append((float(minute), source.choice([31.0, 41.0, 29.5]) if is_warm else source.choice([20.0, 25.0])))
    for index in range(0, len(readings), 48):
        greenhouse.store(*readings[index : index + 48])
    if rolled:
        from telemetry.services.rollups.aggregation import roll_up

        with schema_context(greenhouse.tenant.schema_name):
            roll_up()
    levels = [{**WARNING, "raise_after_seconds": 1200}, {**CRITICAL, "clear_after_seconds": 1200}]
    body = RULE | {"levels": levels, "max_gap_seconds": 1200, "from": greenhouse.begin.isoformat()}
    answer = post(api, "alarm-rules/preview/", body)
    assert answer.status_code == 200, answer.content
    found = answer.json()
    version = RuleVersion(1, greenhouse.begin, parse_levels("threshold", levels))
    samples = [Sample(greenhouse.at(minute), value) for minute, value in readings]
    until = EventPosition(datetime.now(UTC), EventRank.SAMPLE)
    expected = expected_changes([version], samples, timedelta(seconds=1200), until=until)
    begins = [one[0].at for one in expected if one[1] in ("NORMAL", "PENDING")]
    ends = [one[0].at for one in expected if one[2] == "ENDED"]
    assert [datetime.fromisoformat(one["started_at"]) for one in found["results"]] == begins
    assert [datetime.fromisoformat(one["ended_at"]) for one in found["results"]] == ends
    assert (found["count"], found["series"], found["complete"]) == (len(begins), 1, True)
    assert len(begins) > 3
    assert (found["readings"] < len(readings) / 2) is rolled
    assert api.get("alarm-rules/").json()["count"] == 0


@pytest.mark.parametrize(
    ("change", "member"),
    [
        ({"from": "2026-11-30T00:00:00Z", "to": "2026-11-29T00:00:00Z"}, "from"),
        ({"from": "2020-11-30T00:00:00Z"}, "from"),
        ({"from": "2026-11-30"}, "from"),
        ({"from": "2026-11-30T00:00:00"}, "from"),
        ({"from": "0001-01-01T00:00:00Z"}, "from"),
        ({"from": "2026-11-22T00:00:00Z\x00"}, "from"),
        ({"from": "2026-11-22T00:00:00Z", "levels": [{**WARNING, "raise": 10**400}]}, "levels"),
        ({"from": "2026-11-22T00:00:00Z", "levels": [{**WARNING, "clear": 40}]}, "levels"),
    ],
)
def test_an_invalid_preview_is_refused(api: Api, change: Any, member: str) -> None:
    answer = post(api, "alarm-rules/preview/", RULE | change)
    assert (answer.status_code, list(problems(answer))) == (400, [member])


@pytest.mark.parametrize(
    ("scopes", "lacking"),
    [
        (["alarms:write"], "alarms:read, readings:read"),
        (["alarms:write", "alarms:read"], "readings:read"),
        (["readings:read"], "alarms:read"),
        (["alarms:read", "readings:read"], ""),
    ],
)
def test_a_preview_shows_readings_to_keys_that_read_them(
    tenant: Any, greenhouse: Greenhouse, scopes: list[str], lacking: str
) -> None:
    greenhouse.store((1, 35))
    client = Api(tenant.slug, key=issue_key(tenant, "custom", scopes=scopes))
    answer = post(client, "alarm-rules/preview/", RULE | {"from": greenhouse.begin.isoformat()})
    if lacking:
        assert answer.status_code == 403
        assert problems(answer)[None] == f"This requires an API key with the scope {lacking}."
    else:
        assert [one["value"] for one in answer.json()["results"]] == [35]


def test_a_preview_reads_only_so_many_series(api: Api, greenhouse: Greenhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alarms.services.rule_set.MAX_SERIES", 1)
    other = register_device(greenhouse.tenant)
    greenhouse.store((1, 35))
    greenhouse.store((1, 35), device=other)
    body = RULE | {"from": greenhouse.begin.isoformat()}
    answer = post(api, "alarm-rules/preview/", body)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "too_expensive")
    assert post(api, "alarm-rules/preview/", body | {"selector": {"devices": [other.uuid]}}).json()["count"] == 1


def test_unknown_parameters_and_values_are_refused(api: Api) -> None:
    for query in ({"state": "loud"}, {"colour": "red"}, {"severity": "loud"}, {"rule": "77"}):
        assert api.get("alarms/", **query).status_code == 400, query


def test_changes_are_in_the_audit(api: Api, recent: Greenhouse) -> None:
    from devices.models import AuditEntry

    rule = post(api, "alarm-rules/", RULE).json()
    api.send("patch", f"alarm-rules/{rule['id']}/", {"enabled": False})
    api.send("delete", f"alarm-rules/{rule['id']}/")
    with schema_context(recent.tenant.schema_name):
        entries = AuditEntry.objects.filter(object_type="alarms.alarmrule").order_by("pk")
        assert list(entries.values_list("action", flat=True)) == ["add", "change", "remove"]
