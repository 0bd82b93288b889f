"""Stored readings of a tenant become episodes with evidence: late data, edits, scopes, limits, and killed steps."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django_tenants.utils import schema_context

from alarms.domain.evaluation import EventPosition, EventRank, Sample
from alarms.domain.rule_levels import parse_levels
from alarms.domain.rules import RuleVersion
from alarms.models import AlarmEpisode, AlarmProgress, AlarmSeries, AlarmTransition
from alarms.services import tenant_evaluation
from alarms.services.rules import change_rule, remove_rule
from tests.factories import register_device

from .conftest import CRITICAL, WARNING, Greenhouse
from .oracle import expected_changes


def test_an_episode_has_its_evidence(greenhouse: Greenhouse) -> None:
    from telemetry.models import Message

    rule = greenhouse.add_rule(WARNING, CRITICAL)
    greenhouse.store((1, 20), (2, 31.5), (3, 41), (4, 30))
    assert greenhouse.evaluate() == 3
    [episode] = greenhouse.episodes()
    assert (episode.rule, episode.device.uuid, episode.component, episode.metric) == (
        rule,
        greenhouse.device.device.uuid,
        "dht22",
        "temperature",
    )
    assert (episode.state, episode.severity, episode.started_at) == ("ACTIVE", "warning", greenhouse.at(2))
    assert (episode.value, episode.unit, episode.ended_at) == (30, "°C", None)
    raised = greenhouse.transitions()[0]
    assert (raised.value, raised.unit, raised.reading_at, raised.rule_version) == (31.5, "°C", greenhouse.at(2), 1)
    with schema_context(greenhouse.tenant.schema_name):
        message = Message.objects.get(time=greenhouse.at(2))
        assert (raised.fingerprint, raised.received_at) == (message.fingerprint, message.received_at)
    greenhouse.store((5, 28))
    assert greenhouse.evaluate() == 1
    [episode] = greenhouse.episodes()
    assert (episode.state, episode.ended_at, episode.severity) == ("ENDED", greenhouse.at(5), "warning")
    assert greenhouse.history() == ["2: ACTIVE warning", "3: ACTIVE critical", "4: ACTIVE warning", "5: ENDED"]
    assert greenhouse.evaluate() == 0


def test_readings_before_the_rule_raise_nothing(greenhouse: Greenhouse) -> None:
    greenhouse.store((1, 50))
    greenhouse.add_rule(effective_at=greenhouse.at(2))
    greenhouse.store((1.5, 50))
    assert greenhouse.evaluate() == 0
    greenhouse.store((3, 50))
    assert greenhouse.evaluate() == 1


def test_late_data_changes_the_past_and_is_marked(greenhouse: Greenhouse) -> None:
    greenhouse.add_rule()
    greenhouse.store((1, 20), (60, 20))
    greenhouse.evaluate()
    greenhouse.store((30, 35), (31, 20))
    assert greenhouse.evaluate() == 2
    [episode] = greenhouse.episodes()
    assert (episode.late, episode.state, episode.started_at) == (True, "ENDED", greenhouse.at(30))
    greenhouse.store((30.5, 20))
    greenhouse.evaluate()
    assert greenhouse.history() == ["30: ACTIVE warning", "30.5: ENDED"]
    assert [one.pk for one in greenhouse.episodes()] == [episode.pk]
    with schema_context(greenhouse.tenant.schema_name):
        assert AlarmTransition.objects.exclude(superseded_at=None).count() == 1


def test_an_episode_that_never_was_is_retracted(greenhouse: Greenhouse) -> None:
    greenhouse.add_rule({**WARNING, "raise_after_seconds": 120})
    greenhouse.store((100, 35), (101, 35), (102, 35))
    greenhouse.evaluate()
    assert len(greenhouse.episodes()) == 1
    greenhouse.store((101.5, 20))
    greenhouse.evaluate()
    assert greenhouse.episodes() == []
    with schema_context(greenhouse.tenant.schema_name):
        [episode] = AlarmEpisode.objects.all()
        assert episode.retracted_at is not None
        assert episode.late
    greenhouse.store((103, 35), (104, 35))
    assert greenhouse.evaluate() == 1


def test_data_of_a_buffer_is_of_the_past_until_a_reading_arrives_in_time(greenhouse: Greenhouse) -> None:
    greenhouse.add_rule()
    greenhouse.store((1, 35), (2, 20), (3, 36))
    greenhouse.evaluate()
    assert [(one.late, one.state) for one in greenhouse.episodes()] == [(True, "ENDED"), (True, "ACTIVE")]
    greenhouse.store((119.9, 36))
    greenhouse.evaluate()
    assert [(one.late, one.state) for one in greenhouse.episodes()] == [(True, "ENDED"), (False, "ACTIVE")]


def test_a_step_that_is_rolled_back_is_repeated_once(greenhouse: Greenhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    greenhouse.add_rule()
    greenhouse.store((1, 35), (2, 20))

    def fail(*_: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(tenant_evaluation, "_write_states", fail)
        with pytest.raises(RuntimeError):
            greenhouse.evaluate()
    assert greenhouse.transitions() == []
    assert greenhouse.evaluate() == 2
    assert greenhouse.history() == ["1: ACTIVE warning", "2: ENDED"]


def test_a_second_process_does_not_wait_for_a_locked_tenant(greenhouse: Greenhouse) -> None:
    import psycopg

    from tenants.infrastructure.database import conninfo

    greenhouse.add_rule()
    greenhouse.store((1, 35))
    with psycopg.connect(conninfo()) as other:
        other.execute("SELECT set_config('search_path', %s, false)", [greenhouse.tenant.schema_name])
        other.execute("SELECT 1 FROM alarms_alarmprogress FOR UPDATE")
        assert greenhouse.evaluate() == 0
        other.rollback()
        assert greenhouse.evaluate() == 1


def test_an_edit_makes_a_version_and_keeps_the_episode(greenhouse: Greenhouse) -> None:
    rule = greenhouse.add_rule()
    greenhouse.store((1, 35))
    greenhouse.evaluate()
    with schema_context(greenhouse.tenant.schema_name):
        rule = change_rule(rule, None, levels=[{**WARNING, "raise": 40, "clear": 38}])
        assert rule.version == 2
    assert greenhouse.evaluate() == 0
    assert [one.rule_version for one in greenhouse.episodes()] == [1]
    greenhouse.begin = datetime.now(UTC)
    greenhouse.store((0, 35))
    assert greenhouse.evaluate() == 1
    assert greenhouse.transitions()[-1].rule_version == 2


@pytest.mark.parametrize("way", ["disable", "remove", "level", "scope", "selector"])
def test_an_episode_ends_when_its_rule_evaluates_it_no_longer(greenhouse: Greenhouse, way: str) -> None:
    from devices.models import Device

    rule = greenhouse.add_rule()
    greenhouse.store((1, 35))
    greenhouse.evaluate()
    with schema_context(greenhouse.tenant.schema_name):
        if way == "disable":
            change_rule(rule, None, enabled=False)
        elif way == "remove":
            remove_rule(rule, None)
        elif way == "level":
            change_rule(rule, None, levels=[CRITICAL])
        elif way == "selector":
            change_rule(rule, None, selector={"tags": ["roses"]})
        else:
            Device.objects.get().components.all().delete()
            greenhouse.cache.valid_until = 0.0
    greenhouse.evaluate()
    [episode] = greenhouse.episodes()
    assert (episode.state, greenhouse.transitions()[-1].cause) == ("ENDED", "rule_changed")
    assert greenhouse.evaluate() == 0


def test_a_rule_evaluates_the_devices_of_its_selector(greenhouse: Greenhouse) -> None:
    other = register_device(greenhouse.tenant)
    greenhouse.add_rule(selector={"devices": [other.uuid]})
    greenhouse.store((1, 35))
    greenhouse.store((1, 35), device=other)
    greenhouse.evaluate()
    assert [str(one.device.uuid) for one in greenhouse.episodes()] == [other.uuid]


def test_a_device_that_is_new_is_evaluated_from_its_first_reading(greenhouse: Greenhouse) -> None:
    greenhouse.add_rule()
    greenhouse.store((1, 20))
    greenhouse.evaluate()
    new = register_device(greenhouse.tenant)
    greenhouse.store((2, 35), device=new)
    greenhouse.evaluate()
    assert [str(one.device.uuid) for one in greenhouse.episodes()] == [new.uuid]


def test_a_storm_is_one_episode_that_counts(greenhouse: Greenhouse, settings: Any) -> None:
    settings.ALARM_STORM_PER_MINUTE = 3
    greenhouse.begin = datetime.now(UTC) - timedelta(minutes=1)
    greenhouse.add_rule()
    devices = [register_device(greenhouse.tenant) for _ in range(5)]
    for device in devices:
        greenhouse.store((0.5, 35), device=device)
    greenhouse.evaluate()
    assert sorted(one.suppressed_by for one in greenhouse.episodes(device__isnull=False)) == [
        "",
        "",
        "",
        "storm",
        "storm",
    ]
    [storm] = greenhouse.episodes(device=None)
    assert (storm.count, storm.state, storm.device) == (2, "ACTIVE", None)
    with schema_context(greenhouse.tenant.schema_name):
        AlarmEpisode.objects.update(recorded_at=greenhouse.begin)
    greenhouse.evaluate()
    [storm] = greenhouse.episodes(device=None)
    assert storm.state == "ENDED"


def test_a_tenant_has_only_so_many_open_alarms(greenhouse: Greenhouse, settings: Any) -> None:
    settings.ALARM_OPEN = 1
    greenhouse.add_rule()
    other = register_device(greenhouse.tenant)
    greenhouse.store((1, 35))
    greenhouse.evaluate()
    greenhouse.store((2, 35), device=other)
    greenhouse.evaluate()
    greenhouse.store((3, 20), device=other)
    greenhouse.evaluate()
    assert [one.device.pk for one in greenhouse.episodes(device__isnull=False)] == [greenhouse.device.device.pk]
    settings.ALARM_OPEN = 10
    greenhouse.store((4, 35), device=other)
    greenhouse.evaluate()
    assert len(greenhouse.episodes(device__isnull=False)) == 2


def test_a_maintenance_window_suppresses(greenhouse: Greenhouse) -> None:
    from devices.models import MaintenanceWindow

    greenhouse.begin = now = datetime.now(UTC) - timedelta(minutes=1)
    greenhouse.add_rule()
    with schema_context(greenhouse.tenant.schema_name):
        window = {"starts_at": now - timedelta(hours=1), "ends_at": now + timedelta(hours=1)}
        MaintenanceWindow.objects.create(device=greenhouse.device.device, **window)
    greenhouse.store((0.5, 35))
    greenhouse.evaluate()
    assert [one.suppressed_by for one in greenhouse.episodes()] == ["maintenance"]


def test_a_lost_position_is_made_up_from_the_states(greenhouse: Greenhouse) -> None:
    greenhouse.add_rule()
    greenhouse.store((1, 20))
    greenhouse.evaluate()
    greenhouse.store((2, 35), (3, 36))
    with schema_context(greenhouse.tenant.schema_name):
        AlarmProgress.objects.update(position=["00000000-0000-0000-0000-000000000001", 1, 0, None])
    greenhouse.evaluate()
    assert greenhouse.history() == ["2: ACTIVE warning"]


def test_a_tenant_has_only_so_many_rules(greenhouse: Greenhouse, settings: Any) -> None:
    settings.ALARM_RULES = 1
    greenhouse.add_rule()
    with pytest.raises(ValidationError, match="at most 1 alarm rules"):
        greenhouse.add_rule(name="another")


def test_a_series_cannot_have_two_open_episodes(greenhouse: Greenhouse) -> None:
    greenhouse.add_rule()
    greenhouse.store((1, 35))
    greenhouse.evaluate()
    [episode] = greenhouse.episodes()
    episode.pk = None
    with (
        schema_context(greenhouse.tenant.schema_name),
        pytest.raises(IntegrityError, match="alarm_episode_open_once"),
        transaction.atomic(),
    ):
        episode.save(force_insert=True)


def test_random_histories_are_recorded_as_the_model_has_them(greenhouse: Greenhouse) -> None:
    levels = [
        {**WARNING, "raise_after_seconds": 60, "clear_after_seconds": 90},
        {**CRITICAL, "raise_after_seconds": 120},
    ]
    rule = greenhouse.add_rule(*levels)
    version = RuleVersion(1, greenhouse.begin, parse_levels("threshold", levels))
    gap = timedelta(seconds=120)
    for seed in range(8):
        source = random.Random(seed)
        device = register_device(greenhouse.tenant)
        readings, now = [], 0.0
        for _ in range(25):
            now += source.choice([0.5, 1, 1, 1, 2, 2.5])
            readings.append((now, source.choice([20.0, 28.0, 29.5, 31.0, 33.0, 41.0, 36.0])))
        order = sorted(range(25), key=lambda index: index + source.uniform(0, source.choice([0, 3, 40])))
        waiting = [readings[index] for index in order]
        while waiting:
            count = source.randint(1, 5)
            greenhouse.store(*waiting[:count], device=device)
            waiting = waiting[count:]
            greenhouse.evaluate()
            if source.random() < 0.3:
                greenhouse.cache = None  # a process that was restarted
        samples = [Sample(greenhouse.at(minute), value) for minute, value in readings]
        until = EventPosition(greenhouse.at(999), EventRank.SAMPLE)
        expected = [one[:1] + one[2:] for one in expected_changes([version], samples, gap, until=until)]
        with schema_context(greenhouse.tenant.schema_name):
            series = AlarmSeries.objects.get(rule=rule, device=device.device)
        found = [
            (EventPosition(one.at, one.rank, one.rank_value), one.to_state, one.from_severity, one.severity, one.cause)
            for one in greenhouse.transitions(series=series)
        ]
        assert found == expected, seed


def test_the_past_stays_where_its_readings_were_removed(greenhouse: Greenhouse) -> None:
    from telemetry.models import RollupState

    greenhouse.add_rule()
    greenhouse.store((1, 35), (2, 35), (3, 35), (60, 20))
    greenhouse.evaluate()
    assert greenhouse.history() == ["1: ACTIVE warning", "60: ENDED"]
    with schema_context(greenhouse.tenant.schema_name):
        RollupState.objects.update_or_create(pk=1, defaults={"readings_from": greenhouse.at(2.5)})
    # Without the readings before, this one would have begun the episode.
    greenhouse.store((0.5, 35))
    assert greenhouse.evaluate() == 0
    greenhouse.store((61, 35))
    assert greenhouse.evaluate() == 1
    assert greenhouse.history() == ["1: ACTIVE warning", "60: ENDED", "61: ACTIVE warning"]


def test_a_rule_evaluates_times_of_whole_seconds_from_the_second_in_which_it_was_made(greenhouse: Greenhouse) -> None:
    from alarms.models import AlarmRuleVersion
    from alarms.services.rules import add_rule
    from devices.models import Metric

    with schema_context(greenhouse.tenant.schema_name):
        metric = Metric.objects.get(component_type__key="dht22", key="temperature")
        rule = add_rule(
            None, name="new", kind="threshold", component_type=metric.component_type, metric=metric, levels=[WARNING]
        )
        assert AlarmRuleVersion.objects.get(rule=rule).effective_at.microsecond == 0
        for number in (2, 3):
            change_rule(rule, None, name=f"new {number}")
        times = list(
            AlarmRuleVersion.objects.filter(rule=rule).order_by("number").values_list("effective_at", flat=True)
        )
        assert times == sorted(set(times))
