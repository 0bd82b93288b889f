"""A bridge on Mosquitto: a gateway with 50 children of four dialects, killed, cut off for an hour, and back."""

import http.server
import json
import sqlite3
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.bridge.api_client import ApiClient
from devices.bridge.gateway import Gateway, GatewayChild
from devices.bridge.program import Bridge, build, synchronize
from tests.factories import Registered, issue_key
from tests.mqtt import RawClient
from tests.processes import Process, free_port, wait_until

from .mosquitto import Broker, Listener, broker_fixture, listener_fixture  # noqa: F401 (fixtures)
from .signed import is_signed, opened

RUUVI = "0201061BFF9904{}"
HOUR = 3600


def ruuvi(degrees: float) -> str:
    return RUUVI.format(f"05{round(degrees * 200) & 0xFFFF:04X}5394C37C0004FFFC040CAC364200CDCBB8334C884F")


# dialect → (topic, payload) of a device with a temperature
FORMS: dict[str, Callable[[str, float], tuple[str, Any]]] = {
    "tasmota": lambda name, t: (f"tele/{name}/SENSOR", {"Time": "2026-01-01T00:00:00", "AM2301": {"Temperature": t}}),
    "shelly1": lambda name, t: (f"shellies/{name}/temperature", str(t)),
    "zigbee2mqtt": lambda name, t: (f"zigbee2mqtt/{name}", {"temperature": t, "linkquality": 90}),
    "ruuvi": lambda name, t: (f"ruuvi/gw/{name}", {"gw_mac": "AA", "rssi": -60, "data": ruuvi(t)}),
}


def form(dialect: str, name: str, t: float) -> tuple[str, bytes]:
    topic, payload = FORMS[dialect](name, t)
    return topic, payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()


class House:
    """A gateway with its children, registered on the platform, and the devices on its local broker."""

    def __init__(self, register: Any, local: Broker, directory: Path, start: Any, count: int) -> None:
        self.gateway: Registered = register(components={}, cpu_serial="", timeout_seconds=900)
        self.children: dict[tuple[str, str], Registered] = {}
        for number in range(count):
            dialect = list(FORMS)[number % len(FORMS)]
            child = register(gateway=self.gateway.device, cpu_serial="", timeout_seconds=900)
            self.children[dialect, f"device{number}"] = child
        self.local, self.directory, self._start = local, directory, start
        self.publisher = RawClient("devices", "", client_id="the-devices")
        directory.mkdir()

    def config(self, port: int) -> Path:
        path = self.directory / "config.json"
        children = {
            f"{dialect}:{name}": {"uuid": child.uuid, "component": "dht22"}
            for (dialect, name), child in self.children.items()
        }
        given = {
            "uuid": self.gateway.uuid,
            "secret": self.gateway.secret,
            "kid": self.gateway.kid,
            "mqtt_password": self.gateway.mqtt_password,
            "host": "127.0.0.1",
            "port": port,
            "tenant": self.gateway.tenant.slug,
            "local": {"host": "127.0.0.1", "port": self.local.port},
            "children": children,
        }
        path.write_text(json.dumps(given))
        return path

    def run(self, *, port: int, offset: float = 0) -> Process:
        """Start the bridge, and wait until it listens to the devices."""
        process = self._start("tests/management/bridge_process.py", str(self.config(port)), str(offset),
                              env={"PYTHONPATH": "management/device_client:platform:."})  # fmt: skip
        process.wait_for("Connected to the local broker")
        return process

    def speak(self, t: float, silent: str = "") -> None:
        """Have all devices publish, with QoS 1: a device knows then that its broker has the message."""
        for (dialect, name), _child in self.children.items():
            if name != silent:
                self.local.publish(*form(dialect, name, t))

    def changes(self, device: Registered) -> list[tuple[str, str]]:
        from devices.models import StatusChange

        with schema_context(device.tenant.schema_name):
            rows = StatusChange.objects.filter(device=device.device).order_by("id")
            return list(rows.values_list("to_status", "cause"))

    def statuses(self) -> Counter[str]:
        from devices.models import DeviceStatus

        ids = [child.device.pk for child in self.children.values()]
        with schema_context(self.gateway.tenant.schema_name):
            return Counter(DeviceStatus.objects.filter(device__in=ids).values_list("status", flat=True))

    def numbers(self) -> dict[int, dict[int, list[int]]]:
        """The stored numbers of messages by child and boot, in order."""
        from telemetry.models import Message

        ids = [child.device.pk for child in self.children.values()]
        found: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        with schema_context(self.gateway.tenant.schema_name):
            for device, payload in Message.objects.filter(device__in=ids).values_list("device_id", "payload"):
                message = opened(bytes(payload))
                found[device][message["boot"]].append(message["seq"])
        return {device: {boot: sorted(seqs) for boot, seqs in boots.items()} for device, boots in found.items()}

    def stored(self) -> int:
        return sum(len(numbers) for boots in self.numbers().values() for numbers in boots.values())


@pytest.fixture
def platform(start: Callable[..., Process], live_db: None) -> Iterator[None]:
    """A listener and a checker."""
    listener = start("manage.py", "run_mqtt_listener", "--client-id", "bridge-under-test")
    start("manage.py", "check_device_health", "--interval", "0.5")
    listener.wait_for("Connected to the broker")
    yield
    with RawClient.of_url("MQTT_URL", client_id="bridge-under-test", clean=True):
        pass


ONLINE, HIDDEN = ("ONLINE", "telemetry"), ("UNKNOWN", "gateway")
COUNT = 50


def test_a_gateway_is_killed_and_cut_off_for_an_hour(
    platform: None, register: Any, broker: Broker, tmp_path: Path, start: Any
) -> None:
    house = House(register, broker, tmp_path / "house", start, COUNT)
    first = house.run(port=settings.MQTT_PORT)
    house.speak(20)
    wait_until(lambda: house.stored() == COUNT, 300, lambda: f"{house.stored()} messages are stored")
    wait_until(lambda: house.statuses() == {"ONLINE": COUNT}, 300, lambda: str(house.statuses()))

    first.kill()
    wait_until(lambda: house.statuses() == {"UNKNOWN": COUNT}, 300, lambda: str(house.statuses()))
    house.speak(21)  # the local broker keeps what is published while the bridge does not run

    # An hour ago, without the platform; killed with all of it in the spool.
    second = house.run(port=free_port(), offset=-HOUR)
    house.speak(22)
    house.speak(23)
    second.wait_for(f"taken {3 * COUNT} ")
    second.kill()

    third = house.run(port=settings.MQTT_PORT)
    wait_until(lambda: house.stored() == 4 * COUNT, 300, lambda: f"{house.stored()} messages are stored")
    assert house.statuses() == {"UNKNOWN": COUNT}, "what is an hour old says nothing of now"
    third.wait_for("pending 0 connected 1")
    silent = "device7"
    house.speak(24, silent=silent)
    wait_until(lambda: house.statuses()["ONLINE"] == COUNT - 1, 300, lambda: str(house.statuses()))
    wait_until(lambda: house.stored() == 5 * COUNT - 1, 300, lambda: f"{house.stored()} messages are stored")

    assert house.changes(house.gateway) == [("ONLINE", "birth"), ("OFFLINE", "will"), ("ONLINE", "birth")]
    for (_dialect, name), child in house.children.items():
        once = [ONLINE, HIDDEN] if name == silent else [ONLINE, HIDDEN, ONLINE]
        assert house.changes(child) == once, "one cause, said once"
    for device, boots in house.numbers().items():
        assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in boots.values()), (device, boots)
        assert sorted(map(len, boots.values()), reverse=True)[:2] == [3, 1]
    _let_the_timeout_pass(house.children["ruuvi", silent])
    wait_until(lambda: house.statuses()["TIMEOUT"] == 1, 300, lambda: str(house.statuses()))


def _let_the_timeout_pass(child: Registered) -> None:
    redis = get_redis_connection("default")
    member = f"{child.tenant.schema_name}:{child.uuid}:{child.device.pk}"
    assert redis.zscore("device_returning", member) is not None
    redis.zadd("device_returning", {member: 1})
    redis.hset("device_listening", "since", 1)


# --- the program without the platform


@pytest.fixture
def make_bridge(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Bridge]]:
    """Make bridges of one gateway, both of whose brokers are the test's, and end them."""
    made: list[Bridge] = []

    def make(**options: Any) -> Bridge:
        path = tmp_path / "config.json"
        given = {
            "uuid": "11111111-1111-4111-8111-111111111111",
            "secret": "s3cr3t-of-the-gateway",
            "tenant": "demo",
            "mqtt_password": "pw",
            "host": "127.0.0.1",
            "port": broker.port,
            "local": {"host": "127.0.0.1", "port": broker.port},
            "children": {"tasmota:plug": {"uuid": "22222222-2222-4222-8222-222222222222", "component": "plug"}},
            **options,
        }
        path.write_text(json.dumps(given))
        made.append(build(path)[0])
        return made[-1]

    yield make
    for one in made:
        one.close()


SENSOR = b'{"Time": "2026-01-01T00:00:00", "AM2301": {"Temperature": 21.5}}'


def test_a_message_is_signed_for_its_child(make_bridge: Any, broker: Broker, listener: Listener) -> None:
    bridge = make_bridge()
    bridge.start()
    wait_until(lambda: bridge.client.is_connected() and bridge._subscribed, 60, "it has subscribed")
    topic = f"telemetry/demo/{bridge.gateway.uuid}/22222222-2222-4222-8222-222222222222/plug"

    def published() -> bool:
        broker.publish("tele/plug/SENSOR", SENSOR)
        return bool(listener.on(topic))

    wait_until(published, 60, "the message of the child")
    message = listener.on(topic)[0]
    assert is_signed(message.payload, "s3cr3t-of-the-gateway")
    content = opened(message.payload)
    assert (content["gateway"], content["device_uuid"], content["component"], content["seq"]) == (
        bridge.gateway.uuid, "22222222-2222-4222-8222-222222222222", "plug", 1,
    )  # fmt: skip
    assert content["value"] == {"AM2301": {"Temperature": 21.5}}
    assert abs(time.time() - datetime.fromisoformat(content["timestamp"]).timestamp()) < HOUR


def test_a_full_spool_takes_no_more_and_says_so(make_bridge: Any, caplog: pytest.LogCaptureFixture) -> None:
    bridge = make_bridge(buffer_limit=3, port=free_port())
    for _ in range(5):
        bridge.handle("tele/plug/SENSOR", SENSOR)
    gateway = bridge.gateway
    assert (gateway.taken, gateway.not_taken, len(gateway.outbox)) == (3, 2, 3)
    assert [opened(payload)["seq"] for _row, _topic, payload in gateway.outbox.after(0, 9)] == [1, 2, 3]
    assert sum("The spool is full (3 messages)" in text for text in caplog.messages) == 1, "once a minute"


def test_publishers_that_are_no_children_wait(make_bridge: Any) -> None:
    bridge = make_bridge(port=free_port())
    bridge.handle("shellies/shellyht-1/sensor/temperature", b"20.5")
    bridge.handle("shellies/shellyht-1/sensor/humidity", b"55")
    assert (bridge.gateway.taken, list(bridge.gateway.waiting)) == (0, ["shelly1:shellyht-1"])
    waiting = bridge.gateway.waiting["shelly1:shellyht-1"]
    assert (waiting.count, waiting.values) == (2, {"sensor.temperature": 20.5, "sensor.humidity": 55})
    metrics = bridge.dialects.contract(waiting.report)["metrics"]
    assert [(metric["path"], metric["unit"]) for metric in metrics] == [
        ("/value/sensor.temperature", "°C"), ("/value/sensor.humidity", "%"),
    ]  # fmt: skip
    for number in range(2000):
        bridge.handle(f"zigbee2mqtt/made-up-{number}", b'{"temperature": 1}')
    assert len(bridge.gateway.waiting) == 500


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("tele/plug/SENSOR", b"not json"),
        ("tele/plug/SENSOR", b"[1]"),
        ("tele/plug/SENSOR", b"\xff"),
        ("shellies/plug/relay/0/power", b"\xff\xfe"),
        ("senml/plug", b'[{"n": "t", "v": 1, "t": "x"}]'),
        ("ruuvi/gw/plug", b'{"data": "zz"}'),
        ("homeassistant/sensor/x/config", b"{"),
        ("tele/plug/SENSOR", b'{"a": ' * 5000),
    ],
)
def test_what_cannot_be_read_is_named_in_the_log(
    make_bridge: Any, topic: str, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    bridge = make_bridge(port=free_port())
    bridge.handle(topic, payload)
    assert (bridge.unreadable, bridge.gateway.taken, len(caplog.messages)) == (1, 0, 1)
    assert topic in caplog.messages[0]


def test_a_value_that_is_too_large_is_named_in_the_log(make_bridge: Any, caplog: pytest.LogCaptureFixture) -> None:
    bridge = make_bridge(port=free_port())
    bridge.handle("tele/plug/SENSOR", json.dumps({"x": "y" * 70_000}).encode())
    assert bridge.gateway.taken == 0
    assert "cannot be sent" in caplog.messages[0]


def test_retained_values_are_of_some_other_time(make_bridge: Any) -> None:
    bridge = make_bridge(port=free_port())
    bridge.handle("tele/plug/SENSOR", SENSOR, retained=True)
    assert bridge.gateway.taken == 0


def test_a_message_that_is_not_on_disk_is_not_acknowledged(make_bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = make_bridge(port=free_port())
    acknowledged: list[int] = []
    monkeypatch.setattr(bridge.client, "ack", lambda mid, _qos: acknowledged.append(mid))

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(bridge.gateway.outbox, "put", full)
    message = type("Message", (), {"topic": "tele/plug/SENSOR", "payload": SENSOR, "retain": False, "mid": 7, "qos": 1})
    bridge._on_message(bridge.client, None, message)
    assert acknowledged == []
    monkeypatch.undo()
    monkeypatch.setattr(bridge.client, "ack", lambda mid, _qos: acknowledged.append(mid))
    bridge._on_message(bridge.client, None, message)
    assert (acknowledged, bridge.gateway.taken) == ([7], 1)


def test_numbers_begin_again_with_each_boot(make_bridge: Any) -> None:
    first = make_bridge(port=free_port())
    first.handle("tele/plug/SENSOR", SENSOR)
    boot = first.gateway.boot
    first.close()
    second = make_bridge(port=free_port())
    second.handle("tele/plug/SENSOR", SENSOR)
    rows = [opened(payload) for _row, _topic, payload in second.gateway.outbox.after(0, 9)]
    assert [(row["boot"], row["seq"]) for row in rows] == [(boot, 1), (boot + 1, 1)]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"uuid": ...}, "missing uuid"),
        ({"colour": "red"}, "unknown colour; known: api, buffer_limit"),
        ({"local": "localhost"}, "'local' must be an object with the host"),
        ({"signature": "v1"}, "signs with version 2"),
        ({"dialects": ["klingon"]}, "unknown dialects: klingon; there are: "),
        ({"api": {"url": "file:///etc/passwd", "key": "x"}}, "must be an http or https address"),
    ],
)
def test_a_wrong_configuration_says_what_to_mend(tmp_path: Path, given: dict[str, Any], text: str) -> None:
    right = {
        "uuid": "u",
        "secret": "s",
        "tenant": "t",
        "mqtt_password": "p",
        "host": "127.0.0.1",
        "port": 1,
        "local": {"host": "127.0.0.1"},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({name: value for name, value in (right | given).items() if value is not ...}))
    with pytest.raises(SystemExit) as refused:
        build(path)
    assert text in str(refused.value)


def test_the_gateway_repeats_its_birth(make_bridge: Any, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent children must not let the gateway time out."""
    monkeypatch.setattr("devices.bridge.gateway._BIRTH_EVERY", 0.05)
    bridge = make_bridge()
    bridge.gateway.start()
    births = listener.wait("device/birth/", 4)
    assert len({opened(birth.payload)["session"] for birth in births}) == 1
    assert isinstance(bridge.gateway, Gateway)
    assert bridge.gateway.children["tasmota:plug"] == GatewayChild("22222222-2222-4222-8222-222222222222", "plug")


# --- the lobby, from the local broker to the platform and back


@pytest.fixture
def web(live_db: None, start: Callable[..., Process]) -> str:
    """The address of a web server."""
    port = free_port()
    command = ["-m", "uvicorn", "config.asgi:application", "--port", str(port), "--log-level", "warning"]
    start(*command)
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(address), 300, "the web server does not answer")
    return address


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_new_device_waits_is_registered_and_sends(
    web: str, platform: None, register: Any, broker: Broker, tmp_path: Path
) -> None:
    """In between the platform is unavailable, and the bridge is started anew without it."""
    from devices.models import WaitingPublisher
    from devices.services.provisioning import waiting_publishers

    gateway: Registered = register(components={}, cpu_serial="")
    tenant, name = gateway.tenant, f"attic-{gateway.uuid[:8]}"
    key = issue_key(tenant, "custom", scopes=("devices:read", "gateways:write"))
    config = tmp_path / "config.json"
    given = {
        "uuid": gateway.uuid,
        "secret": gateway.secret,
        "kid": gateway.kid,
        "tenant": tenant.slug,
        "mqtt_password": gateway.mqtt_password,
        "host": "127.0.0.1",
        "port": settings.MQTT_PORT,
        "local": {"host": "127.0.0.1", "port": broker.port},
        "api": {"url": f"{web}/t/{tenant.slug}/api/v1", "key": key},
    }
    config.write_text(json.dumps(given))
    bridge, api = build(config)
    assert api is not None
    topic, payload = form("zigbee2mqtt", name, 20.5)
    bridge.handle(topic, payload)
    synchronize(bridge, api)
    with schema_context(tenant.schema_name):
        waiting = WaitingPublisher.objects.get(gateway=gateway.device)
        child = waiting_publishers.register(waiting)
    assert child is not None
    synchronize(bridge, api)
    assert (list(bridge.gateway.children), bridge.gateway.waiting) == ([f"zigbee2mqtt:{name}"], {})
    bridge.gateway.close()

    config.write_text(json.dumps(given | {"api": {"url": f"http://127.0.0.1:{free_port()}/", "key": key}}))
    bridge, api = build(config)
    assert api is not None
    synchronize(bridge, api)
    assert bridge.gateway.children == {f"zigbee2mqtt:{name}": GatewayChild(str(child.uuid), "zigbee2mqtt")}
    bridge.gateway.start()
    bridge.handle(topic, payload)
    try:
        wait_until(lambda: _units(tenant, child) == {"temperature": "°C", "linkquality": ""}, 300, "its readings")
    finally:
        bridge.gateway.close()


def _units(tenant: Any, device: Any) -> dict[str, str]:
    from telemetry.models import Series

    with schema_context(tenant.schema_name):
        return dict(Series.objects.filter(device=device).values_list("metric", "unit"))


class Platform(http.server.ThreadingHTTPServer):
    """An API that refuses a publisher by its name, and notes what it accepts."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.sizes: list[int] = []
        super().__init__(("127.0.0.1", 0), _PlatformHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _PlatformHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200, {"results": [], "next": None})

    def do_POST(self) -> None:
        platform: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        names = [one["publisher"] for one in body["publishers"]]
        platform.sizes.append(len(names))
        if any("refused" in name for name in names):
            self._answer(400, {"detail": "no"})
            return
        platform.accepted += names
        self._answer(200, {"waiting": len(names)})

    def _answer(self, status: int, body: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None: ...


def test_a_publisher_that_is_refused_holds_up_no_other(
    make_bridge: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bridge = make_bridge(port=free_port())
    for number in range(60):
        name = "refused" if number == 7 else f"lamp{number}"
        bridge.handle(f"zigbee2mqtt/{name}", b'{"temperature": 20}')
    with Platform() as platform:
        url = f"http://127.0.0.1:{platform.server_port}/t/demo/api/v1/"
        api = ApiClient({"url": url, "key": "k"}, bridge.gateway.uuid, tmp_path / "children.json")
        synchronize(bridge, api)
        platform.shutdown()
    assert platform.sizes == [50, *[1] * 50, 10]
    assert len(platform.accepted) == len(set(platform.accepted)) == 59
    assert sum("zigbee2mqtt:refused cannot wait" in text for text in caplog.messages) == 1
