"""Several listeners on a shared subscription, and what becomes of the messages of one that is gone."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django_tenants.utils import schema_context

from tests import payloads
from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import Process, wait_until

NAMES = ("replica-test", "replica-test-2")


@pytest.fixture(autouse=True)
def forget_sessions(live_db: None) -> Iterator[None]:
    yield
    for name in NAMES:
        with RawClient.of_url("MQTT_URL", client_id=name, clean=True):
            pass


def publish(device: Registered, count: int, first: int = 0) -> None:
    with RawClient.of_url("MQTT_BRIDGE_URL") as client:
        for n in range(first, first + count):
            client.publish(payloads.topic(device), payloads.v2(device, {"temp": n % 50}, seq=n))
        wait_until(lambda: len(client.acknowledged) == count)


def both_connected(parent: Process) -> None:
    wait_until(lambda: parent.log.read_text().count("Connected to the broker") == 2, 180, parent.log.read_text)


def stored(device: Registered) -> int:
    from telemetry.models import Message

    with schema_context(device.tenant.schema_name):
        return Message.objects.filter(device=device.device).count()


def processed(log: Path) -> int:
    """How many messages a listener says to have processed when it stopped."""
    found = re.search(r"Stopped after (\d+) messages", log.read_text())
    assert found, log.read_text()
    return int(found[1])


def test_replicas_share_the_messages_are_started_again_and_stop_together(
    register: Any, start: Callable[..., Process]
) -> None:
    device = register()
    parent = start("manage.py", "run_mqtt_listener", "--replicas", "2", "--client-id", NAMES[0])
    both_connected(parent)
    publish(device, 200)
    wait_until(lambda: stored(device) == 200, 180, lambda: f"{stored(device)} stored\n{parent.log.read_text()}")

    children = Path(f"/proc/{parent.popen.pid}/task/{parent.popen.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    publish(device, 100, first=200)
    wait_until(lambda: stored(device) == 300, 180, parent.log.read_text)
    assert parent.stop(15) == 0
    shares = [int(n) for n in re.findall(r"Stopped after (\d+) messages", parent.log.read_text())]
    assert len(shares) == 2
    assert min(shares) > 30, "both had a part"


def test_a_dead_members_part_waits_for_it_and_retiring_takes_it(register: Any, start: Callable[..., Process]) -> None:
    """The broker goes on queueing for a persistent member that is disconnected: half of the messages wait. The
    process that retires its session receives them, and leaves nothing behind."""
    device = register()
    listeners = [start("manage.py", "run_mqtt_listener", "--share", "ingest", "--client-id", name) for name in NAMES]
    for listener in listeners:
        listener.wait_for("Connected to the broker")
    listeners[1].signal(signal.SIGKILL)
    listeners[1].popen.wait()
    time.sleep(0.3)
    publish(device, 100)
    wait_until(lambda: stored(device) >= 30, 60)
    time.sleep(1.5)
    waiting = 100 - stored(device)
    assert 20 <= waiting <= 80, "about half of them are kept for the dead member"

    retired = start("manage.py", "run_mqtt_listener", "--retire", "--share", "ingest", "--client-id", NAMES[1])
    assert retired.popen.wait(120) == 0
    assert stored(device) == 100
    publish(device, 50, first=100)
    wait_until(lambda: stored(device) == 150, 60, lambda: "the retired member still has a part")
    assert listeners[0].stop() == 0


def test_from_one_listener_to_two_and_back(register: Any, start: Callable[..., Process]) -> None:
    """The session remembers its plain subscription, and would have every message twice."""
    device = register()
    alone = start("manage.py", "run_mqtt_listener", "--client-id", NAMES[0])
    alone.wait_for("Connected to the broker")
    assert alone.stop() == 0
    two = start("manage.py", "run_mqtt_listener", "--replicas", "2", "--client-id", NAMES[0])
    both_connected(two)
    publish(device, 60)
    wait_until(lambda: stored(device) == 60, 60)
    assert two.stop(15) == 0
    assert sum(int(n) for n in re.findall(r"Stopped after (\d+) messages", two.log.read_text())) == 60
    retired = start("manage.py", "run_mqtt_listener", "--retire", "--share", "ingest", "--client-id", NAMES[1])
    assert retired.popen.wait(120) == 0
    alone = start("manage.py", "run_mqtt_listener", "--client-id", NAMES[0])
    alone.wait_for("Connected to the broker")
    publish(device, 40, first=60)
    wait_until(lambda: stored(device) == 100, 60)
    assert alone.stop() == 0
    assert processed(alone.log) == 40
