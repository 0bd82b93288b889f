"""The broker's memory: what a client can make it keep, beyond its own connection."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from devices.services.broker.connection import address_of, make_client
from management.embedded import mosquitto
from management.embedded.mosquitto_limits import BrokerLimits, read_limits
from management.embedded.stack import EmbeddedStack
from telemetry.services.mqtt.session import BrokerSession
from tests.attacks.arena import Arena
from tests.attacks.attack import BRAKES, Measurement, attack, brake
from tests.processes import wait_until

_MB = 1024 * 1024
_TOPIC = "telemetry/attacker/6d1f0c1e-0000-4000-8000-000000000001/dht22"
# Bytes of the brokers in these plays, which are small so that the attacks are.
_MEMORY = 64 * _MB
_GREATEST = 200 * _MB


@brake("removal of retained messages")
def without_removal() -> None:
    """Leave every message that a device retains at the broker."""
    BrokerSession._clear_retained = lambda self: None  # type: ignore[method-assign]


@brake("limits of the broker")
def without_limits() -> None:
    """Start brokers without limits of a packet, of QoS and of memory."""
    mosquitto.read_limits = _no_limits


def _no_limits(environment: Mapping[str, str] = os.environ) -> BrokerLimits:
    sizes = {"message_bytes": _GREATEST, "packet_bytes": _GREATEST, "memory_bytes": 16 * _GREATEST}
    return replace(read_limits(environment), qos=2, **sizes)


def _small_limits(environment: Mapping[str, str] = os.environ) -> BrokerLimits:
    return replace(read_limits(environment), memory_bytes=_MEMORY)


class Client:
    """A connection with one of the platform's accounts: what was received and acknowledged, and whether it is open."""

    def __init__(self, url: str, name: str, **options: Any) -> None:
        self.received: list[bytes] = []
        self.acknowledged = 0
        self.is_closed = False
        self._is_ready = False
        self.mqtt = make_client(url, name, reconnect_on_failure=False, **options)
        self.mqtt.max_inflight_messages_set(65_535)
        self.mqtt.on_connect = lambda *_: setattr(self, "_is_ready", True)
        self.mqtt.on_subscribe = lambda *_: setattr(self, "_is_ready", True)
        self.mqtt.on_disconnect = lambda *_: setattr(self, "is_closed", True)
        self.mqtt.on_message = lambda _c, _u, message: self.received.append(bytes(message.payload))
        self.mqtt.on_publish = lambda *_: setattr(self, "acknowledged", self.acknowledged + 1)
        address = address_of(url)
        self.mqtt.connect(address.host, address.port, keepalive=60)
        self.mqtt.loop_start()
        wait_until(lambda: self._is_ready, 10, "no answer to CONNECT")

    def subscribe(self, pattern: str) -> None:
        self._is_ready = False
        self.mqtt.subscribe(pattern, qos=1)
        wait_until(lambda: self._is_ready, 10, "no answer to SUBSCRIBE")

    def close(self) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


class SmallBroker:
    """A broker of the play's own, with little memory: its resident memory, and clients."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self._stack = stack
        self.env = stack.server("mosquitto").environment()
        self.memory_before = self.memory_mb()

    def memory_mb(self) -> float:
        pages = int(Path(f"/proc/{self._stack.pid('mosquitto')}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _MB

    def attacker(self, **options: Any) -> Client:
        """Return a client that publishes as devices do, at their port."""
        return Client(self.env["MQTT_BRIDGE_URL"], f"attacker-{time.monotonic_ns()}", **options)

    def leave_session(self) -> None:
        """Leave an absent listener's session, in which every message waits."""
        absent = Client(self.env["MQTT_URL"], "absent", clean_session=False)
        absent.subscribe("telemetry/#")
        absent.close()

    def answered(self, requests: int = 10) -> int:
        """Return how many of an honest client's messages come back within a second each."""
        listener = Client(self.env["MQTT_URL"], "honest-listener")
        listener.subscribe("telemetry/honest/#")
        device = Client(self.env["MQTT_BRIDGE_URL"], "honest-device")
        for _ in range(requests):
            count, deadline = len(listener.received), time.monotonic() + 1
            device.mqtt.publish("telemetry/honest/x/dht22", b"x", qos=1)
            while len(listener.received) == count and time.monotonic() < deadline:
                time.sleep(0.002)
        for client in (listener, device):
            client.close()
        return len(listener.received)


@contextmanager
def small_broker(arena: Arena) -> Iterator[SmallBroker]:
    """Run a small broker, without its limits in a control. The stack's own broker stays as it is."""
    before = mosquitto.read_limits
    mosquitto.read_limits = _small_limits
    try:
        if not arena.is_braked:
            BRAKES["limits of the broker"]()
        with (
            tempfile.TemporaryDirectory() as directory,
            EmbeddedStack(Path(directory), use={"mosquitto"}, fsync=False) as stack,
        ):
            yield SmallBroker(stack)
    finally:
        mosquitto.read_limits = before


def _memory_play(
    arena: Arena, send: Callable[[SmallBroker], None], megabytes: float, *, honest: bool = True
) -> Measurement:
    """Measure the broker's memory before and after `send`, and an honest client after it."""
    with small_broker(arena) as broker:
        broker.leave_session()
        quiet = broker.answered() if honest else 0
        send(broker)
        time.sleep(0.5)
        grown = broker.memory_mb() - broker.memory_before
        figures = {"memory_before_mb": round(broker.memory_before, 1), "memory_grown_mb": round(grown, 1)}
        measurement = Measurement(figures)
        measurement.bound("MB that the broker has grown", round(grown, 1), megabytes)
        if honest:
            lost = quiet - broker.answered()
            measurement.bound("messages of an honest client that are not answered", lost, 0)
    return measurement


@attack("qos2-unfinished", "a device finishes no exchange of QoS 2", brake="limits of the broker", short=True)
def qos2_unfinished(arena: Arena) -> Measurement:
    """Publish 80 MB with QoS 2 and release none of it."""

    def send(broker: SmallBroker) -> None:
        client = broker.attacker()
        setattr(client.mqtt, "_send_pubrel", lambda _mid: mqtt.MQTT_ERR_SUCCESS)  # noqa: B010 (a method)
        for _ in range(800):
            client.mqtt.publish(_TOPIC, bytes(100_000), qos=2)
        grown = 0.0
        while not client.is_closed and broker.memory_mb() > grown:
            grown = broker.memory_mb()
            time.sleep(1)
        # The library's thread would wait until the exchanges are finished.
        client.mqtt._out_messages.clear()
        client.mqtt.loop_stop()

    return _memory_play(arena, send, 20)


@attack("user-properties", "properties far larger than the payload", brake="limits of the broker", short=True)
def user_properties(arena: Arena) -> Measurement:
    """Publish packets of 10 MB of properties with one byte of payload, to an absent listener's queue."""

    def send(broker: SmallBroker) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("k", "v" * 60_000)] * 170
        for _ in range(4):
            client = broker.attacker(protocol=mqtt.MQTTv5)
            client.mqtt.publish(_TOPIC, b"x", qos=1, properties=properties)
            wait_until(lambda: client.is_closed or client.acknowledged, 20)  # noqa: B023 (called at once)
            client.close()

    return _memory_play(arena, send, 20)


@attack("absent-session-queue", "messages for a listener that does not return", brake="limits of the broker")
def absent_session_queue(arena: Arena) -> Measurement:
    """Publish 160 MB to the queue of an absent listener: the memory of the broker is bounded.

    An honest client is refused as well while the memory is full, so that it is not measured.
    """

    def send(broker: SmallBroker) -> None:
        client = broker.attacker()
        for _ in range(1600):
            client.mqtt.publish(_TOPIC, bytes(100_000), qos=1)
        wait_until(lambda: client.is_closed or client.acknowledged == 1600, 60)
        client.mqtt._out_messages.clear()
        client.mqtt.loop_stop()

    return _memory_play(arena, send, 1.2 * _MEMORY / _MB, honest=False)


@attack("retained-flood", "a device retains messages on ever new topics", brake="removal of retained messages")
def retained_flood(arena: Arena) -> Measurement:
    """Retain messages of 20 KB each on new topics; a neighbour's device publishes meanwhile."""
    arena.listen()
    device, count = arena.attackers[0], arena.scaled(400)
    prefix = f"telemetry/{arena.attacker.slug}/{device.uuid}"
    quiet = arena.quiet(arena.device_probe())
    probe = arena.device_probe(1)
    with probe:
        publisher = Client(os.environ["MQTT_BRIDGE_URL"], f"publisher-{time.monotonic_ns()}")
        for number in range(count):
            publisher.mqtt.publish(f"{prefix}/c{number}", bytes(20_000), qos=1, retain=True)
        wait_until(lambda: publisher.acknowledged == count, 60)
        publisher.close()
        time.sleep(arena.seconds)
    late = Client(os.environ["MQTT_URL"], f"late-{time.monotonic_ns()}")
    late.subscribe(f"{prefix}/#")
    time.sleep(2)
    late.close()
    left = sum(len(payload) for payload in late.received) / _MB
    _clear(prefix, count)
    figures = quiet.figures("quiet") | probe.latencies.figures("attacked")
    measurement = Measurement({**figures, "retained_mb": round(count * 20_000 / _MB, 1)})
    measurement.bound("MB that stay retained", round(left, 2), 0)
    measurement.bound("lost messages of the neighbour", probe.latencies.lost, 0)
    return measurement


def _clear(prefix: str, count: int) -> None:
    """Remove what a control has left."""
    client = Client(os.environ["MQTT_BRIDGE_URL"], f"clear-{time.monotonic_ns()}")
    for number in range(count):
        client.mqtt.publish(f"{prefix}/c{number}", b"", qos=1, retain=True)
    wait_until(lambda: client.acknowledged == count, 60)
    client.close()
