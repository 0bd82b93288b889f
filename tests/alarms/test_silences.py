"""Components that send no data: alarms by time, outages of listeners, devices that are not online, and the API."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from alarms.models import AlarmEpisode, AlarmProgress, AlarmRuleVersion, AlarmSeries, ListenerOutage
from alarms.services import hearing, tenant_evaluation
from alarms.services.hearing import Hearing
from alarms.services.rules import add_rule, change_rule
from devices.models import Component, ComponentType, Device, DeviceStatus
from devices.services.presence import activity
from devices.services.presence import redis_scripts as scripts
from tests.api.client import Api, problems
from tests.factories import issue_key

from .conftest import WARNING, Greenhouse

LEVELS = [
    {"severity": "warning", "raise_after_seconds": 600},
    {"severity": "critical", "raise_after_seconds": 3600},
]
RULE = {"name": "silent", "kind": "no_data", "component_type": "dht22", "levels": LEVELS}


class Clock:
    """What the evaluation knows of the listeners: the time in minutes after the begin, and whether one is there."""

    def __init__(self, greenhouse: Greenhouse) -> None:
        self.greenhouse = greenhouse
        self.is_heard = True

    def look(self, minutes: float) -> list[str]:
        """Evaluate at a time; return the alarms of components as "state severity suppression"."""
        self.now = self.greenhouse.at(minutes)
        if self.greenhouse.cache is not None:
            self.greenhouse.cache.silence_at = 0.0
        self.greenhouse.evaluate()
        rows = self.greenhouse.episodes(ended_at=None).copy()
        return [f"{one.component or 'device'} {one.severity} {one.suppressed_by}".strip() for one in rows]


@pytest.fixture
def clock(greenhouse: Greenhouse, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(greenhouse)
    monkeypatch.setattr(tenant_evaluation, "observe", lambda _progress: Hearing(made.now, made.is_heard))
    return made


@pytest.fixture
def silent(greenhouse: Greenhouse, clock: Clock) -> Greenhouse:
    """The greenhouse with a rule for silence and a device that is online; its minute 0 is now."""
    greenhouse.begin = datetime.now(UTC)
    add_silence_rule(greenhouse)
    set_status(greenhouse, "ONLINE")
    return greenhouse


@pytest.fixture
def past(silent: Greenhouse) -> Greenhouse:
    """The same, where now is minute 100 and the rule is older."""
    silent.begin -= timedelta(minutes=100)
    make_older(silent)
    return silent


def make_older(greenhouse: Greenhouse) -> None:
    with schema_context(greenhouse.tenant.schema_name):
        AlarmRuleVersion.objects.update(effective_at=greenhouse.at(-10))
    greenhouse.cache = None


def add_silence_rule(greenhouse: Greenhouse, **fields: Any) -> Any:
    with schema_context(greenhouse.tenant.schema_name):
        kind = ComponentType.objects.get(key="dht22")
        return add_rule(None, **({"name": "silent", "kind": "no_data", "levels": LEVELS} | fields), component_type=kind)


def set_status(greenhouse: Greenhouse, status: str) -> None:
    with schema_context(greenhouse.tenant.schema_name):
        DeviceStatus.objects.update_or_create(device=greenhouse.device.device, defaults={"status": status})


def store_late(greenhouse: Greenhouse, *minutes: float) -> None:
    greenhouse.store(*((minute, 20.0) for minute in minutes))


def test_silence_raises_by_time_and_data_ends_it(silent: Greenhouse, clock: Clock) -> None:
    store_late(silent, 0)
    assert clock.look(9) == []
    assert clock.look(10.05) == []  # data of the last moment may be on its way
    assert clock.look(11) == ["dht22 warning"]
    assert clock.look(59) == ["dht22 warning"]
    assert clock.look(61) == ["dht22 critical"]
    [episode] = silent.episodes()
    assert (episode.started_at, episode.metric, episode.value, episode.late) == (silent.at(10), "", None, False)
    raised, higher = silent.transitions()
    assert (raised.cause, raised.since, raised.reading_at, raised.value) == (
        "silence",
        silent.at(0),
        silent.at(0),
        None,
    )
    assert raised.fingerprint is not None
    assert (higher.severity, higher.at) == ("critical", silent.at(60))
    with schema_context(silent.tenant.schema_name):
        assert AlarmSeries.objects.get().due_at is None


def test_data_that_comes_ends_it(past: Greenhouse, clock: Clock) -> None:
    store_late(past, 0)
    assert clock.look(111) == ["dht22 warning"]
    store_late(past, 99.9)
    assert clock.look(101) == []
    [episode] = past.episodes()
    assert (episode.state, episode.severity, episode.ended_at) == ("ENDED", "critical", past.at(99.9))
    assert [(one.to_state, one.cause, one.at) for one in past.transitions()] == [
        ("ACTIVE", "silence", past.at(10)),
        ("ACTIVE", "silence", past.at(60)),
        ("ENDED", "reading", past.at(99.9)),
    ]
    assert past.transitions()[-1].reading_at == past.at(99.9)


def test_a_restart_raises_nothing_anew(silent: Greenhouse, clock: Clock) -> None:
    store_late(silent, 0)
    clock.look(11)
    for _ in range(3):
        silent.cache = None
        assert clock.look(12) == ["dht22 warning"]
    assert len(silent.transitions()) == 1


def test_late_data_that_covers_the_silence_retracts_it(past: Greenhouse, clock: Clock) -> None:
    store_late(past, 0)
    assert clock.look(165) == ["dht22 critical"]
    store_late(past, 5, 14, 23, 32)
    assert clock.look(101) == []
    assert past.episodes() == []
    with schema_context(past.tenant.schema_name):
        assert AlarmEpisode.objects.get().retracted_at is not None
    store_late(past, 99.9)
    clock.look(102)
    [episode] = past.episodes()
    assert (episode.started_at, episode.ended_at, episode.state) == (past.at(42), past.at(99.9), "ENDED")
    store_late(past, 45)
    clock.look(103)
    assert [(one.started_at, one.ended_at, one.late) for one in past.episodes()] == [
        (past.at(42), past.at(45), True),
        (past.at(55), past.at(99.9), True),
    ]


def test_nothing_is_raised_while_no_listener_hears_devices(silent: Greenhouse, clock: Clock) -> None:
    store_late(silent, 0)
    clock.is_heard = False
    assert clock.look(90) == []
    clock.is_heard = True
    with schema_context(silent.tenant.schema_name):
        ListenerOutage.objects.create(starts_at=silent.at(3), ends_at=silent.at(90))
    assert clock.look(91) == []
    assert clock.look(99) == []
    assert clock.look(101) == ["dht22 warning"]
    [episode] = silent.episodes()
    assert episode.started_at == silent.at(100)
    clock.is_heard = False
    assert clock.look(500) == ["dht22 warning"]


def test_a_component_that_never_reported_raises_nothing(silent: Greenhouse, clock: Clock) -> None:
    assert clock.look(100) == []


def test_a_rule_finds_a_silence_that_has_begun_before_it(greenhouse: Greenhouse, clock: Clock) -> None:
    set_status(greenhouse, "ONLINE")
    greenhouse.begin = datetime.now(UTC)
    store_late(greenhouse, 0)
    add_silence_rule(greenhouse, levels=[{"severity": "major", "raise_after_intervals": 3}])
    with schema_context(greenhouse.tenant.schema_name):
        Component.objects.update(expected_interval=60)
    assert clock.look(2.9) == []
    assert clock.look(3.2) == ["dht22 major"]


def test_a_device_that_is_not_online_has_one_alarm(silent: Greenhouse, clock: Clock) -> None:
    store_late(silent, 0)
    set_status(silent, "TIMEOUT")
    assert clock.look(11) == ["dht22 warning parent_offline", "device warning"]
    assert clock.look(61) == ["dht22 critical parent_offline", "device critical"]
    set_status(silent, "ONLINE")
    assert clock.look(62) == ["dht22 critical"]
    [device] = silent.episodes(component="")
    assert (device.state, device.metric, device.started_at) == ("ENDED", "", silent.at(10))
    assert [one.cause for one in silent.transitions(episode=device)] == ["parent_offline"] * 3
    set_status(silent, "OFFLINE")
    assert clock.look(63) == ["dht22 critical parent_offline", "device critical"]
    assert clock.look(64) == ["dht22 critical parent_offline", "device critical"]


def test_an_alarm_of_a_device_ends_with_its_rule(past: Greenhouse, clock: Clock) -> None:
    store_late(past, 0)
    set_status(past, "OFFLINE")
    clock.look(111)
    rule = past.episodes()[0].rule
    with schema_context(past.tenant.schema_name):
        change_rule(rule, None, enabled=False)
    assert clock.look(112) == []
    assert {one.state for one in past.episodes()} == {"ENDED"}


@pytest.mark.parametrize("way", ["detached", "inactive"])
def test_an_alarm_ends_when_its_component_is_not_expected_any_more(past: Greenhouse, clock: Clock, way: str) -> None:
    store_late(past, 0)
    assert clock.look(111) == ["dht22 warning"]
    with schema_context(past.tenant.schema_name):
        if way == "detached":
            Component.objects.update(attached=False)
        else:
            Device.objects.update(active=False)
    past.cache = None
    assert clock.look(112) == []
    assert past.transitions()[-1].cause == "rule_changed"


def test_an_edit_makes_a_silence_an_alarm_or_ends_one(past: Greenhouse, clock: Clock) -> None:
    store_late(past, 0)
    assert clock.look(111) == ["dht22 warning"]
    rule = past.episodes()[0].rule
    with schema_context(past.tenant.schema_name):
        change_rule(rule, None, levels=[{"severity": "warning", "raise_after_seconds": 90000}])
    assert clock.look(112) == []
    with schema_context(past.tenant.schema_name):
        change_rule(rule, None, levels=[{"severity": "minor", "raise_after_seconds": 300}])
    assert clock.look(113) == ["dht22 minor"]


def test_old_data_that_still_arrives_raises_nothing(past: Greenhouse, clock: Clock) -> None:
    clock.look(0)
    store_late(past, 1, 2, 3)
    assert clock.look(101) == []
    assert clock.look(111) == ["dht22 warning"]
    assert past.episodes()[0].started_at == past.at(13)
    assert clock.look(161) == ["dht22 critical"]


def test_an_end_by_hand_raises_what_is_still_silent(past: Greenhouse, clock: Clock, api: Api) -> None:
    store_late(past, 0)
    assert clock.look(111) == ["dht22 warning"]
    set_status(past, "OFFLINE")
    clock.look(112)
    listed = api.get("alarms/").json()["results"]
    assert {one["suppressed_by"] for one in listed} == {"", "parent_offline"}
    for one in listed:
        assert api.send("post", f"alarms/{one['id']}/end/", {"reason": "known"}).json()["state"] == "ended"
        texts = [row["description"] for row in api.get(f"alarms/{one['id']}/history/").json()["results"]]
        assert all(texts), texts
    assert [one.split()[::2] for one in sorted(clock.look(113))] == [["device"], ["dht22", "parent_offline"]]


def test_the_evaluation_of_limits_is_as_before(silent: Greenhouse, clock: Clock) -> None:
    silent.add_rule(WARNING, effective_at=silent.at(-1))
    silent.store((0, 35))
    assert clock.look(11) == ["dht22 warning", "dht22 warning"]
    assert sorted(one.metric for one in silent.episodes()) == ["", "temperature"]


# --- what Redis knows of the listeners --------------------------------------------------------------------------


@pytest.fixture
def progress(tenant: Any) -> Iterator[Any]:
    get_redis_connection("default").delete(scripts.LISTENING, scripts.SUSPENDED_TIMEOUTS)
    with schema_context(tenant.schema_name):
        yield AlarmProgress.objects.get_or_create(pk=1)[0]


def test_without_a_listener_silence_is_no_evidence(progress: Any) -> None:
    assert not hearing.observe(progress).is_heard
    activity.record_listener_heartbeat()
    assert hearing.observe(progress).is_heard
    [first] = ListenerOutage.objects.all()
    redis = get_redis_connection("default")
    now = float(redis.time()[0])
    redis.hset(scripts.LISTENING, mapping={"last": now - 100, "since": now - 5000})
    lost = hearing.observe(progress)
    assert not lost.is_heard
    assert lost.lost_at is not None
    assert lost.outages()[-1].begin == lost.lost_at
    activity.record_listener_heartbeat()
    assert hearing.observe(progress).is_heard
    last = ListenerOutage.objects.order_by("ends_at").last()
    assert last is not None
    assert last.ends_at > first.starts_at


def test_an_outage_between_two_looks_is_recorded(progress: Any) -> None:
    activity.record_listener_heartbeat()
    hearing.observe(progress)
    redis = get_redis_connection("default")
    now = float(redis.time()[0])
    before = datetime.fromtimestamp(now - 600, UTC)
    AlarmProgress.objects.update(listener_seen_at=before)
    progress.refresh_from_db()
    redis.hset(scripts.LISTENING, mapping={"last": now, "since": now - 60})
    assert hearing.observe(progress).is_heard
    assert (before, datetime.fromtimestamp(now - 60, UTC)) in hearing.observe(progress).outages()


def test_while_the_messages_of_the_tenant_wait_silence_is_no_evidence(progress: Any, tenant: Any) -> None:
    activity.record_listener_heartbeat()
    assert hearing.observe(progress).is_heard
    activity.suspend_timeouts(["another_schema"])
    assert hearing.observe(progress).is_heard
    activity.suspend_timeouts([tenant.schema_name])
    seen = hearing.observe(progress)
    assert not seen.is_heard
    assert seen.outages()[-1].end >= seen.now - timedelta(seconds=1)


# --- the API ----------------------------------------------------------------------------------------------------


@pytest.fixture
def api(tenant: Any, settings: Any) -> Api:
    settings.API_REQUESTS_PER_MINUTE = 0
    return Api(tenant.slug, key=issue_key(tenant))


def test_a_rule_is_made_and_changed(api: Api) -> None:
    made = api.send("post", "alarm-rules/", RULE)
    assert made.status_code == 201, made.content
    rule = made.json()
    assert (rule["metric"], rule["unit"], rule["levels"]) == (None, "", LEVELS)
    levels = [{"severity": "minor", "raise_after_intervals": 2.5}]
    changed = api.send("patch", f"alarm-rules/{rule['id']}/", {"levels": levels})
    assert (changed.status_code, changed.json()["levels"]) == (200, levels)
    assert api.send("delete", f"alarm-rules/{rule['id']}/").status_code == 204


@pytest.mark.parametrize(
    ("change", "member", "text"),
    [
        ({"metric": "temperature"}, "metric", "leave out 'metric'"),
        ({"max_gap_seconds": 60}, "max_gap_seconds", "leave out 'max_gap_seconds'"),
        ({"kind": "threshold", "levels": [WARNING]}, "metric", "needs a metric"),
        ({"levels": [{"severity": "warning"}]}, "levels", "either 'raise_after_seconds' or 'raise_after_intervals'"),
        ({"levels": [{"raise_after_seconds": 60}]}, "levels", "'severity' is missing"),
        ({"levels": [WARNING]}, "levels", "'raise' is not a known member"),
        ({"levels": [{"severity": "minor", "raise_after_seconds": 0}]}, "levels", "from 1 to 604800"),
        ({"levels": [{"severity": "minor", "raise_after_intervals": 0.5}]}, "levels", "a number from 1 to 1000"),
        ({"levels": [{"severity": "minor", "raise_after_intervals": "2"}]}, "levels", "must be a number"),
        ({"levels": [LEVELS[0], LEVELS[0]]}, "levels", "another level has the severity warning"),
        ({"levels": [LEVELS[0], {**LEVELS[1], "raise_after_seconds": 600}]}, "levels", "a longer delay than warning"),
        (
            {"levels": [LEVELS[0], {"severity": "critical", "raise_after_intervals": 9}]},
            "levels",
            "the same member for their delay",
        ),
    ],
)
def test_an_invalid_rule_is_refused_with_its_cause(api: Api, change: Any, member: str, text: str) -> None:
    answer = api.send("post", "alarm-rules/", RULE | change)
    assert answer.status_code == 400, answer.content
    assert text in problems(answer)[member]
    assert api.get("alarm-rules/").json()["count"] == 0


def test_a_preview_of_silence_is_refused(api: Api) -> None:
    answer = api.send("post", "alarm-rules/preview/", RULE | {"from": "2026-11-22T00:00:00Z"})
    assert (answer.status_code, list(problems(answer))) == (400, ["kind"])
