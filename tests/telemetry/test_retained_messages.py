"""Messages that devices and apps retain at the broker: processed like any other, and removed from the broker."""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from telemetry.services.mqtt.session import BrokerSession
from telemetry.services.pipeline.results import Incoming
from tests.devices.test_app_access import App, issue  # noqa: F401 (a fixture)
from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import wait_until


class Listening:
    """A listener's session, and what it received."""

    def __init__(self, *topics: str) -> None:
        self.received: list[Incoming] = []
        self.session = BrokerSession(
            "retained-under-test", topics, window=100, on_messages=self.keep, on_lost=lambda: None
        )
        self.turn(lambda: self.session.is_connected)
        self.turn(lambda: False, seconds=0.5)

    def keep(self, messages: list[Incoming]) -> None:
        self.received += messages
        self.session.acknowledge(messages)

    def turn(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            self.session.exchange(0.05, reading=True)


@pytest.fixture
def listen(live_db: None) -> Iterator[Callable[..., Listening]]:
    running: list[Listening] = []

    def make(*topics: str) -> Listening:
        running.append(Listening(*topics))
        return running[-1]

    yield make
    for each in running:
        each.session.close(1, for_good=True)


def retained(*patterns: str) -> dict[str, bytes]:
    """What a client that subscribes now finds at the broker."""
    with RawClient.of_url("MQTT_URL") as late:
        for pattern in patterns:
            assert late.subscribe(pattern)
        return dict(late.settle())


@pytest.mark.parametrize("share", ["", "$share/retained-under-test/"], ids=["alone", "shared"])
def test_a_retained_message_is_received_once_and_not_kept(register: Any, listen: Any, share: str) -> None:
    device, mark = register(), os.urandom(4).hex()
    listening = listen(f"{share}telemetry/#", f"{share}device/#")
    topics = [f"telemetry/alpha/{device.uuid}/c{number}-{mark}" for number in range(5)]
    topics += [f"device/birth/{device.uuid}", f"device/lwt/status/{device.uuid}"]
    with RawClient(device.uuid, device.mqtt_password) as client:
        for topic in topics:
            client.publish_acknowledged(topic, mark.encode(), retain=True)
        client.publish_acknowledged(topics[0], b"plain")
    own = [device.uuid]
    listening.turn(lambda: len(listening.received) > len(topics))
    listening.turn(lambda: False, seconds=2.5)
    assert not [topic for topic in retained("telemetry/#", "device/#") if own[0] in topic]
    found = [(each.topic, each.payload) for each in listening.received if own[0] in each.topic]
    assert sorted(found) == sorted([*((topic, mark.encode()) for topic in topics), (topics[0], b"plain")])


def test_a_retained_will_is_received_and_not_kept(register: Any, listen: Any) -> None:
    device = register()
    will = f"device/lwt/{device.uuid}"
    listening = listen("device/#")
    dying = RawClient(device.uuid, device.mqtt_password, will=(will, b"{}", True))
    dying.__enter__()
    dying.drop()
    listening.turn(lambda: listening.received)
    listening.turn(lambda: False, seconds=2)
    assert [each.topic for each in listening.received] == [will]
    assert will not in retained("device/lwt/+")


def test_messages_that_were_retained_while_no_listener_was_connected_are_removed_too(
    register: Any, listen: Any
) -> None:
    """They wait in the session's queue with their flag."""
    device = register()
    topic = f"telemetry/alpha/{device.uuid}/dht22"
    first = BrokerSession(
        "retained-under-test", ["telemetry/#"], window=100, on_messages=lambda _m: None, on_lost=lambda: None
    )
    wait_until(lambda: first.exchange(0.05, reading=True) or first.is_connected)
    first.exchange(0.5, reading=True)
    first.close(1)
    with RawClient(device.uuid, device.mqtt_password) as client:
        client.publish_acknowledged(topic, b"queued", retain=True)
    assert topic in retained("telemetry/#")
    listening = listen("telemetry/#")
    listening.turn(lambda: [each for each in listening.received if each.topic == topic])
    listening.turn(lambda: False, seconds=2)
    assert topic not in retained("telemetry/#")


def test_what_an_app_retains_is_removed_by_the_notifier(register: Any, issue: Callable[..., App]) -> None:  # noqa: F811
    from devices.services.notifications.state_publisher import StateBroker

    device, app = register(), issue()
    topic = f"client/request_state/alpha/{device.uuid}"
    notifier = StateBroker("notifier-of-retained")

    def turn(condition: Callable[[], Any]) -> None:
        def exchanged() -> Any:
            notifier.exchange(0.05, also=[])
            return condition()

        wait_until(exchanged)

    turn(lambda: notifier.is_connected)
    with app.connect() as client:
        client.publish_acknowledged(topic, json.dumps({"x": 1}).encode(), retain=True)
    turn(lambda: ("alpha", device.device.uuid) in notifier.take_requests(10))
    notifier.close()
    assert topic not in retained("client/request_state/#")
    with RawClient.of_url("MQTT_URL", client_id="notifier-of-retained", clean=True):
        pass


def test_the_synchronization_removes_what_no_process_receives(register: Any) -> None:
    from devices.services.broker.synchronization import sync_broker

    device: Registered = register()
    topics = [f"command/alpha/{device.uuid}/response", f"telemetry/alpha/{device.uuid}/dht22"]
    state = f"client/state/alpha/{device.uuid}"
    with RawClient(device.uuid, device.mqtt_password) as client:
        for topic in topics:
            client.publish_acknowledged(topic, b"x", retain=True)
    with RawClient.of_url("MQTT_URL") as platform:
        platform.publish_acknowledged(state, b"{}", retain=True)
    assert sync_broker().strays >= 1
    everything = ("command/+/+/response", "telemetry/#", "client/state/#")
    assert topics[0] not in retained(*everything)
    assert sync_broker(states=True).strays >= 1
    left = retained(*everything)
    assert topics[1] not in left
    assert state in left
