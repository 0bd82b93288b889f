"""The bounds of the embedded broker: of one client, and of its whole memory."""

import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest
from django_redis import get_redis_connection
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from management.embedded.errors import EmbeddedError
from management.embedded.mosquitto_limits import read_limits
from management.embedded.stack import EmbeddedStack
from telemetry.services.mqtt.session import BrokerSession
from telemetry.services.pipeline.results import Incoming
from tests.processes import wait_until

VERSIONS = [mqtt.MQTTv311, mqtt.MQTTv5]


class Client:
    """A client with one of the platform's accounts, at its own port or at that of the devices."""

    def __init__(self, env: dict[str, str], variable: str, name: str, *, version: int = mqtt.MQTTv5) -> None:
        self.url = urlsplit(env[variable])
        self.answers: queue.Queue[Any] = queue.Queue()
        self.received: list[bytes] = []
        self.acknowledged: list[int] = []
        self.is_closed = False
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=version,  # type: ignore[arg-type]
            reconnect_on_failure=False,
        )
        self.client.username_pw_set(self.url.username, self.url.password)
        self.client.max_inflight_messages_set(1000)
        self.client.on_connect = lambda _c, _u, _f, reason, _p: self.answers.put(reason)
        self.client.on_disconnect = lambda *_: setattr(self, "is_closed", True)
        self.client.on_message = lambda _c, _u, message: self.received.append(bytes(message.payload))
        self.client.on_publish = lambda _c, _u, mid, *_: self.acknowledged.append(mid)
        self.client.on_subscribe = lambda *_: self.answers.put("subscribed")

    def connect(self, *, port: int | None = None, **options: Any) -> "Client":
        self.client.connect("127.0.0.1", port or self.url.port or 0, keepalive=30, **options)
        self.client.loop_start()
        assert not self.answers.get(timeout=60).is_failure
        return self

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path, use={"mosquitto"}) as running:
        yield running


def rss_mb(stack: EmbeddedStack) -> float:
    pid = stack.pid("mosquitto")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (pid, *children)]
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024


@pytest.mark.parametrize("version", VERSIONS)
def test_qos_2_closes_the_connection(stack: EmbeddedStack, version: int) -> None:
    """An unfinished exchange of QoS 2 keeps its message, and nothing else bounds their number."""
    env = stack.server("mosquitto").environment()
    client = Client(env, "MQTT_BRIDGE_URL", "bridge", version=version).connect()
    client.client.publish("telemetry/a/b/c", b"x", qos=2)
    wait_until(lambda: client.is_closed, 60)
    client.client.loop_stop()


def test_user_properties_count_to_the_size_of_a_packet(stack: EmbeddedStack) -> None:
    env, limits = stack.server("mosquitto").environment(), read_limits()
    listener = Client(env, "MQTT_URL", "listener").connect()
    listener.client.subscribe("telemetry/#", qos=1)
    listener.answers.get(timeout=60)
    for pairs, arrives in ((2, True), (2 + limits.packet_bytes // 60_000, False)):
        client = Client(env, "MQTT_BRIDGE_URL", "bridge").connect()
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("k", "v" * 60_000)] * pairs
        client.client.publish("telemetry/a/b/c", b"%d" % pairs, qos=1, properties=properties)
        if arrives:
            wait_until(lambda: listener.received == [b"2"], 60)
        else:
            wait_until(lambda: client.is_closed, 60)  # noqa: B023 (called at once)
        client.close()
    assert listener.received == [b"2"]
    listener.close()


def test_connections_of_devices_do_not_keep_the_platform_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("MQTT_MAX_CONNECTIONS", "20")
    with EmbeddedStack(tmp_path, use={"mosquitto"}) as stack:
        env = stack.server("mosquitto").environment()
        sockets = [socket.create_connection(("127.0.0.1", int(env["MQTT_PORT"]))) for _ in range(40)]
        time.sleep(0.5)
        refused = Client(env, "MQTT_URL", "at-the-port-of-devices")
        with pytest.raises((OSError, queue.Empty)):
            refused.connect(port=int(env["MQTT_PORT"]))
        refused.client.loop_stop()
        Client(env, "MQTT_URL", "at-the-port-of-the-platform").connect().close()
        for one in sockets:
            one.close()


def refusals() -> int:
    return int(get_redis_connection("default").hget("gwanje:metrics", "broker_refusals_total") or 0)


def test_a_full_broker_acknowledges_nothing_that_it_does_not_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue of an absent listener is bounded by the memory; with more memory it gets all that was acknowledged."""
    received: dict[bytes, Incoming] = {}

    def keep(messages: list[Incoming]) -> None:
        received.update({message.payload[:5]: message for message in messages})
        session.acknowledge(messages)

    def turn(condition: Callable[[], Any]) -> None:
        wait_until(lambda: session.exchange(0.05, reading=True) or condition(), 60)

    monkeypatch.setenv("MQTT_MEMORY_MB", "32")
    with EmbeddedStack(tmp_path, use={"mosquitto"}) as stack:
        env = stack.server("mosquitto").environment()
        settings.MQTT_URL = env["MQTT_URL"]
        session = BrokerSession("listener", ["telemetry/#"], window=1000, on_messages=keep, on_lost=lambda: None)
        turn(lambda: session.is_connected)
        session.exchange(0.5, reading=True)
        session.close(1)
        publisher = Client(env, "MQTT_BRIDGE_URL", "bridge").connect()
        payloads: dict[int, bytes] = {}
        for number in range(3000):
            body = b"%05d" % number + bytes(20_000)
            payloads[publisher.client.publish("telemetry/a/b/c", body, qos=1).mid] = body[:5]
        wait_until(lambda: publisher.is_closed, 60, "the broker took more than its memory")
        publisher.client.loop_stop()
        acknowledged = [payloads[mid] for mid in publisher.acknowledged]
        assert 100 < len(acknowledged) < 3000
        assert rss_mb(stack) < 80
        before = refusals()
        session = BrokerSession("listener", ["telemetry/#"], window=1000, on_messages=keep, on_lost=lambda: None)
        turn(lambda: refusals() > before)
        assert "it may have reached its limit of memory" in caplog.text
    monkeypatch.setenv("MQTT_MEMORY_MB", "256")
    with EmbeddedStack(tmp_path, use={"mosquitto"}):
        turn(lambda: received.keys() >= set(acknowledged))
        session.close(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("MQTT_MEMORY_MB", "x"), ("MQTT_MEMORY_MB", "1"), ("MQTT_MAX_QOS", "0"), ("MQTT_MAX_CONNECTIONS", "-1"),
     ("MQTT_MAX_CONNECTIONS", "١٢")],
)  # fmt: skip
def test_an_invalid_limit_is_named(name: str, value: str) -> None:
    with pytest.raises(EmbeddedError, match=f"{name} must be a whole number from"):
        read_limits({name: value})


def test_a_larger_payload_of_the_platform_makes_the_broker_accept_more() -> None:
    assert read_limits({"INGEST_MAX_PAYLOAD": str(1 << 20)}).message_bytes == 4 << 20
    assert read_limits({}).packet_bytes > read_limits({}).message_bytes > 64 * 1024
