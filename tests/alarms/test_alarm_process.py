"""Real processes of alarms: two at once, killed and started again while readings are stored."""

import random
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django_tenants.utils import schema_context

from alarms.domain.evaluation import EventPosition, EventRank, Sample
from alarms.domain.rule_levels import parse_levels
from alarms.domain.rules import RuleVersion
from tests.factories import register_device
from tests.processes import Process, wait_until

from .conftest import CRITICAL, WARNING, Greenhouse
from .oracle import expected_changes

ROUNDS = 8


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Start a process of alarms."""
    started: list[Process] = []

    def run() -> Process:
        log = tmp_path / f"alarms-{len(started)}.log"
        started.append(Process("manage.py", "run_alarms", "--interval", "0.05", "--look", "0.2", log=log))
        return started[-1]

    yield run
    for process in started:
        process.stop()


def position(greenhouse: Greenhouse) -> Any:
    from alarms.models import AlarmProgress

    with schema_context(greenhouse.tenant.schema_name):
        return AlarmProgress.objects.values_list("position", flat=True).get()


def newest(greenhouse: Greenhouse) -> Any:
    from telemetry.services.queries.changes import ChangeKind, ChangeSelection, changes_page

    with schema_context(greenhouse.tenant.schema_name):
        return changes_page(ChangeSelection(ChangeKind.READINGS), newest=True, limit=1).end


def test_killed_processes_miss_and_double_nothing(greenhouse: Greenhouse, start: Callable[[], Process]) -> None:
    levels = [{**WARNING, "raise_after_seconds": 60}, {**CRITICAL, "clear_after_seconds": 60}]
    greenhouse.add_rule(*levels)
    source = random.Random(16)
    devices = [greenhouse.device, *(register_device(greenhouse.tenant) for _ in range(3))]
    stored: dict[str, list[Sample]] = {device.uuid: [] for device in devices}
    running = [start(), start()]
    for number in range(ROUNDS):
        for device in devices:
            minutes = [8 + 5 * number + step + source.choice([0, -7]) for step in source.sample(range(5), 4)]
            readings = [(minute + source.random(), source.choice([20.0, 31.0, 33.0, 41.0])) for minute in minutes]
            greenhouse.store(*readings, device=device)
            stored[device.uuid] += [Sample(greenhouse.at(minute), value) for minute, value in readings]
        if number % 2:
            wait_until(lambda: position(greenhouse) == newest(greenhouse), explain=lambda: running[0].output()[-3000:])
        victim = source.randrange(len(running))
        running[victim].signal(signal.SIGKILL)
        running[victim] = start()
    wait_until(lambda: position(greenhouse) == newest(greenhouse), explain=lambda: running[0].output()[-3000:])
    version = RuleVersion(1, greenhouse.begin, parse_levels("threshold", levels))
    until = EventPosition(greenhouse.at(999), EventRank.SAMPLE)
    raised = 0
    for device in devices:
        expected = expected_changes([version], stored[device.uuid], timedelta(seconds=120), until=until)
        found = greenhouse.transitions(episode__device=device.device)
        assert [
            (EventPosition(one.at, one.rank, one.rank_value), one.from_state, one.to_state, one.severity)
            for one in found
        ] == [(*one[:3], one[4]) for one in expected]
        raised += len(found)
    assert raised > 20


def test_a_transition_follows_within_moments_and_a_stopped_process_ends_cleanly(
    greenhouse: Greenhouse, start: Callable[[], Process]
) -> None:
    greenhouse.begin = datetime.now(UTC) - timedelta(minutes=1)
    process = start()
    process.wait_for("Evaluating alarms")
    greenhouse.add_rule()
    greenhouse.store((0.5, 35))
    wait_until(lambda: greenhouse.episodes(state="ACTIVE"), explain=process.output)
    assert process.stop() == 0
    greenhouse.store((0.6, 20))
    start()
    wait_until(lambda: greenhouse.episodes(state="ENDED"), explain=process.output)
    assert greenhouse.history() == ["0.5: ACTIVE warning", "0.6: ENDED"]


def test_silence_raises_one_alarm_whatever_dies(greenhouse: Greenhouse, start: Callable[[], Process]) -> None:
    from alarms.services.rules import add_rule
    from devices.models import ComponentType
    from devices.services.presence import activity

    greenhouse.begin = datetime.now(UTC)
    with schema_context(greenhouse.tenant.schema_name):
        kind = ComponentType.objects.get(key="dht22")
        levels = [{"severity": "minor", "raise_after_seconds": 1}]
        add_rule(None, name="silent", kind="no_data", component_type=kind, levels=levels)
    running = [start(), start()]
    greenhouse.store((0, 20))

    def is_raised() -> bool:
        activity.record_listener_heartbeat()
        return bool(greenhouse.episodes(state="ACTIVE"))

    wait_until(is_raised, explain=lambda: running[0].output()[-3000:])
    for process in running:
        process.signal(signal.SIGKILL)
    running = [start(), start()]
    with schema_context(greenhouse.tenant.schema_name):
        add_rule(None, name="again", kind="no_data", component_type=kind, levels=levels)
    wait_until(
        lambda: is_raised() and len(greenhouse.episodes(state="ACTIVE", component="dht22", rule__name="again")) == 1
    )
    assert len(greenhouse.transitions(episode__rule__name="silent", cause="silence")) == 1


def test_the_metrics_have_the_lag_and_the_open_alarms(greenhouse: Greenhouse) -> None:
    from alarms.services.alarm_process import AlarmProcess
    from tenants.infrastructure import metrics

    greenhouse.begin = datetime.now(UTC) - timedelta(minutes=1)
    greenhouse.add_rule()
    greenhouse.store((0.5, 35))
    process = AlarmProcess(interval=0.0, look_seconds=0.0)
    wait_until(lambda: process.run_once() or greenhouse.episodes())
    process._metrics_at = 0.0
    process.run_once()
    process.close()
    text = metrics.as_text().decode()
    assert "gwanje_alarm_episodes 1.0" in text
    assert float(text.partition("\ngwanje_alarm_transitions_total ")[2].split()[0]) >= 1
    assert "gwanje_alarm_last_pass_timestamp_seconds" in text
