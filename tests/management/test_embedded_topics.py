"""The rights to publish, subscribe and receive at the embedded broker, tried by a raw client."""

import json
import queue
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from management.embedded.mosquitto import MosquittoServer
from management.embedded.stack import EmbeddedStack

OWN = "6d1f0c1e-0000-4000-8000-000000000001"
OTHER = "6d1f0c1e-0000-4000-8000-000000000002"
VERSIONS = [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5]
CONTROL = "$CONTROL/dynamic-security/v1"


class Client:
    """A connection, with what the broker answered and delivered."""

    def __init__(
        self,
        env: dict[str, str],
        name: str,
        password: str,
        client_id: str = "",
        will: str = "",
        version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
    ) -> None:
        self.delivered: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.answers: queue.Queue[Any] = queue.Queue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id or name, protocol=version)
        self._client.username_pw_set(name, password)
        if will:
            self._client.will_set(will, b"gone", qos=1)
        self._client.on_connect = lambda _c, _u, _f, reason, _p: self.answers.put(not reason.is_failure)
        self._client.on_subscribe = lambda _c, _u, _m, reasons, _p: self.answers.put(not reasons[0].is_failure)
        self._client.on_publish = lambda *_: self.answers.put(True)
        self._client.on_message = lambda _c, _u, message: self.delivered.put((message.topic, bytes(message.payload)))
        self._client.connect(env["MQTT_HOST"], int(env["MQTT_PORT"]), keepalive=30)
        self._client.loop_start()
        self.is_connected = self.answers.get(timeout=60)

    def subscribe(self, topic: str) -> bool:
        """Whether the broker grants it."""
        self._client.subscribe(topic, qos=1)
        return bool(self.answers.get(timeout=60))

    def publish(self, topic: str, payload: bytes = b"x", retain: bool = False) -> None:
        """Publish and wait for the acknowledgement, which comes for a refused message too."""
        self._client.publish(topic, payload, qos=1, retain=retain)
        self.answers.get(timeout=60)

    def received(self, last: str) -> list[str]:
        """The topics that were delivered up to the topic `last`, without it."""
        topics: list[str] = []
        while True:
            topic, _ = self.delivered.get(timeout=60)
            if topic == last:
                return topics
            topics.append(topic)

    def break_off(self) -> None:
        """Close the connection without a word, so that the broker publishes the will."""
        connection = self._client.socket()
        assert isinstance(connection, socket.socket)
        self._client.loop_stop()
        connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Broker:
    """The embedded broker, and connections to it."""

    def __init__(self, stack: EmbeddedStack) -> None:
        server = stack.server("mosquitto")
        assert isinstance(server, MosquittoServer)
        self.knows_names = server.package.version >= (2, 1)
        self.env = server.environment()
        self.clients: list[Client] = []

    def account(self, variable: str, client_id: str = "") -> Client:
        """A connection of one of the platform's own accounts, by its variable."""
        url = urlsplit(self.env[variable])
        return self._keep(Client(self.env, str(url.username), str(url.password), client_id or f"test-{variable}"))

    def device(self, uuid: str, password: str = "", **options: Any) -> Client:
        return self._keep(Client(self.env, uuid, password or uuid, **options))

    def _keep(self, client: Client) -> Client:
        self.clients.append(client)
        return client

    def create_devices(self) -> None:
        """Give the two devices their accounts, as the platform does."""
        admin = self.account("MQTT_ADMIN_URL")
        assert admin.subscribe(f"{CONTROL}/response")
        for uuid in (OWN, OTHER):
            account = {"username": uuid, "clientid": uuid, "password": uuid, "roles": [{"rolename": "device"}]}
            admin.publish(CONTROL, json.dumps({"commands": [{"command": "createClient", **account}]}).encode())
            assert "error" not in json.loads(admin.delivered.get(timeout=60)[1])["responses"][0]

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path_factory.mktemp("var"), use={"mosquitto"}) as stack:
        broker = Broker(stack)
        broker.create_devices()
        broker.close()
        yield stack


@pytest.fixture
def broker(stack: EmbeddedStack) -> Iterator[Broker]:
    broker = Broker(stack)
    yield broker
    broker.close()


LOGINS = [
    ("its own password and client id", OWN, OWN, OWN, True),
    ("a wrong password", OWN, "wrong", OWN, False),
    ("another client id", OWN, OWN, "another", False),
    ("another device's client id", OWN, OWN, OTHER, False),
    ("another device's password", OWN, OTHER, OWN, False),
    ("an unknown name", "nobody", "x", "nobody", False),
]


@pytest.mark.parametrize(
    ("name", "password", "client_id", "allowed"), [row[1:] for row in LOGINS], ids=[r[0] for r in LOGINS]
)
def test_a_device_logs_in_as_itself_only(
    broker: Broker, name: str, password: str, client_id: str, allowed: bool
) -> None:
    assert broker.device(name, password, client_id=client_id).is_connected is allowed


def test_nobody_logs_in_without_a_name(broker: Broker) -> None:
    answers: queue.Queue[bool] = queue.Queue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="anonymous")
    client.on_connect = lambda _c, _u, _f, reason, _p: answers.put(reason.is_failure)
    client.connect(broker.env["MQTT_HOST"], int(broker.env["MQTT_PORT"]))
    client.loop_start()
    assert answers.get(timeout=60)
    client.disconnect()
    client.loop_stop()


def test_a_wrong_password_does_not_disturb_the_device(broker: Broker) -> None:
    device = broker.device(OWN)
    assert not broker.device(OWN, "wrong").is_connected
    time.sleep(0.2)
    device.publish("device/birth/" + OWN)
    assert device.is_connected


SUBSCRIPTIONS = {
    f"command/demo/{OWN}/request": True,
    f"command/+/{OWN}/request": True,
    "#": False,
    "+/#": False,
    "+/+/+/+": False,
    "telemetry/#": False,
    f"telemetry/demo/{OWN}/dht22": False,
    f"telemetry/demo/{OTHER}/#": False,
    f"device/birth/{OWN}": False,
    "device/lwt/+": False,
    "command/#": False,
    f"command/demo/{OWN}/response": False,
    f"command/demo/{OWN}/#": False,
    f"client/state/demo/{OWN}": False,
    "client/#": False,
    "$share/ingest/telemetry/#": False,
    "$share/ingest/#": False,
    f"$share/ingest/command/demo/{OTHER}/request": False,
    "$SYS/#": False,
    "$SYS/broker/clients/connected": False,
    "$CONTROL/#": False,
    f"{CONTROL}/response": False,
}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_device_subscribes_to_its_commands_only(broker: Broker, version: MQTTProtocolVersion) -> None:
    device = broker.device(OWN, version=version)
    assert {topic: device.subscribe(topic) for topic in SUBSCRIPTIONS} == SUBSCRIPTIONS


def test_another_devices_commands_are_never_delivered(broker: Broker) -> None:
    """Before 2.1 the plugin cannot tell one device's command topic from another's; then the delivery is refused."""
    device = broker.device(OWN)
    assert device.subscribe(f"command/demo/{OWN}/request")
    for topic in (f"command/demo/{OTHER}/request", "command/+/+/request", "command/demo/+/request"):
        assert device.subscribe(topic) is not broker.knows_names
    platform = broker.account("MQTT_URL")
    platform.publish(f"command/demo/{OTHER}/request", retain=True)
    platform.publish(f"command/demo/{OTHER}/request")
    platform.publish(f"command/demo/{OWN}/request")
    assert device.received(last=f"command/demo/{OWN}/request") == []
    late = broker.device(OTHER)  # the retained one is its own, and waits for it
    assert late.subscribe(f"command/demo/{OTHER}/request")
    assert late.delivered.get(timeout=60)[0] == f"command/demo/{OTHER}/request"
    platform.publish(f"command/demo/{OTHER}/request", b"", retain=True)


PUBLICATIONS = {
    f"telemetry/demo/{OWN}/dht22": True,
    f"telemetry/owner@example.com/{OWN}/dht22/status": True,
    f"device/birth/{OWN}": True,
    f"device/lwt/{OWN}": True,
    f"device/lwt/status/{OWN}": True,
    f"command/demo/{OWN}/response": True,
    f"telemetry/demo/{OTHER}/dht22": False,
    f"telemetry/{OWN}/{OTHER}/dht22": False,
    f"telemetry/{OWN}": False,
    f"device/birth/{OTHER}": False,
    f"device/lwt/{OTHER}": False,
    f"device/lwt/status/{OTHER}": False,
    f"command/demo/{OTHER}/response": False,
    f"client/request_state/demo/{OWN}": False,
}
END = f"device/birth/{OTHER}"


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_device_publishes_to_its_own_topics_only(broker: Broker, version: MQTTProtocolVersion, retain: bool) -> None:
    platform = broker.account("MQTT_URL")
    for topic in ("telemetry/#", "device/#", "command/+/+/response", "client/request_state/#"):
        assert platform.subscribe(topic)
    device, other = broker.device(OWN, version=version), broker.device(OTHER)
    for topic in PUBLICATIONS:
        device.publish(topic, retain=retain)
    other.publish(END)
    assert platform.received(last=END) == [topic for topic, allowed in PUBLICATIONS.items() if allowed]
    for topic, allowed in PUBLICATIONS.items():
        if allowed and retain:
            device.publish(topic, b"", retain=True)


def test_a_refused_publication_does_not_end_the_connection(broker: Broker) -> None:
    device = broker.device(OWN)
    assert device.subscribe(f"command/demo/{OWN}/request")
    device.publish(f"device/birth/{OTHER}")
    broker.account("MQTT_URL").publish(f"command/demo/{OWN}/request")
    assert device.delivered.get(timeout=60)[0] == f"command/demo/{OWN}/request"
    assert device.answers.empty()  # it has not logged in again


def test_a_device_can_speak_for_the_platform_nowhere(broker: Broker) -> None:
    """Commands, states and accounts are the platform's to publish."""
    device, other, admin = broker.device(OWN), broker.device(OTHER), broker.account("MQTT_ADMIN_URL")
    assert other.subscribe(f"command/demo/{OTHER}/request")
    assert admin.subscribe(f"{CONTROL}/response")
    for topic in (f"command/demo/{OTHER}/request", f"command/demo/{OWN}/request", f"client/state/demo/{OWN}"):
        device.publish(topic)
    device.publish(CONTROL, b'{"commands": [{"command": "deleteClient", "username": "gwanje-platform"}]}')
    broker.account("MQTT_URL").publish(f"command/demo/{OTHER}/request", b"real")
    assert other.delivered.get(timeout=60)[1] == b"real"
    assert admin.delivered.empty()


WILLS = {
    f"device/lwt/{OWN}": True,
    f"device/lwt/{OTHER}": False,
    f"telemetry/demo/{OTHER}/dht22": False,
    "other": False,
}


@pytest.mark.parametrize("topic", WILLS)
def test_a_will_is_published_on_its_own_topic_only(broker: Broker, topic: str) -> None:
    platform = broker.account("MQTT_URL")
    for wanted in ("telemetry/#", "device/#"):
        assert platform.subscribe(wanted)
    broker.device(OWN, will=topic).break_off()
    time.sleep(0.3)
    broker.device(OTHER).publish(END)
    assert platform.received(last=END) == ([topic] if WILLS[topic] else [])


def test_listeners_share_a_subscription_under_ids_of_their_own(broker: Broker) -> None:
    listeners = [broker.account("MQTT_URL", client_id=f"listener-{number}") for number in range(2)]
    for listener in listeners:
        assert listener.subscribe("$share/ingest/telemetry/#")
        assert not listener.subscribe("#")
    device = broker.device(OWN)
    for _ in range(10):
        device.publish(f"telemetry/demo/{OWN}/dht22")
    time.sleep(0.3)
    shares = [listener.delivered.qsize() for listener in listeners]
    assert sum(shares) == 10
    assert min(shares) > 0


def test_a_bridge_hands_over_any_devices_messages_and_hears_nothing(broker: Broker) -> None:
    platform, bridge = broker.account("MQTT_URL"), broker.account("MQTT_BRIDGE_URL")
    for topic in ("telemetry/#", "device/#"):
        assert platform.subscribe(topic)
    for topic in ("telemetry/#", "#", f"command/demo/{OWN}/request"):
        assert not bridge.subscribe(topic)
    sent = [f"telemetry/demo/{OWN}/dht22", f"device/birth/{OWN}", f"device/lwt/status/{OWN}"]
    for topic in [*sent, "client/state/demo/x", END]:
        bridge.publish(topic)
    assert platform.received(last=END) == sent


def test_a_message_above_the_protocols_size_still_arrives(broker: Broker) -> None:
    platform, device = broker.account("MQTT_URL"), broker.device(OWN)
    assert platform.subscribe("telemetry/#")
    device.publish(f"telemetry/demo/{OWN}/dht22", b"x" * 200 * 1024)
    assert len(platform.delivered.get(timeout=60)[1]) == 200 * 1024


def test_accounts_and_queued_messages_survive_a_restart(broker: Broker, stack: EmbeddedStack) -> None:
    url = urlsplit(broker.env["MQTT_URL"])
    kept = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="kept", clean_session=False)
    kept.username_pw_set(str(url.username), str(url.password))
    delivered: queue.Queue[bytes] = queue.Queue()
    subscribed: queue.Queue[None] = queue.Queue()
    kept.on_connect = lambda client, *_: client.subscribe("telemetry/#", qos=1)
    kept.on_subscribe = lambda *_: subscribed.put(None)
    kept.on_message = lambda _c, _u, message: delivered.put(bytes(message.payload))
    kept.connect(str(url.hostname), url.port or 0)
    kept.loop_start()
    subscribed.get(timeout=60)
    kept.disconnect()
    kept.loop_stop()
    broker.device(OWN).publish(f"telemetry/demo/{OWN}/dht22", b"while disconnected")
    stack.restart("mosquitto")
    assert broker.device(OTHER).is_connected
    kept.connect(str(url.hostname), url.port or 0)
    kept.loop_start()
    assert delivered.get(timeout=60) == b"while disconnected"
    kept.disconnect()
    kept.loop_stop()


def test_the_brokers_files_are_private(stack: EmbeddedStack) -> None:
    for path in (stack.var / "mosquitto").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
