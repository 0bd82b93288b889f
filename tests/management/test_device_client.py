"""The device module against a real broker: will, birth, buffer, numbers, commands, and its signatures."""

import ast
import base64
import hmac
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.domain.paths import PROTOCOL_MEMBERS
from management.device_client import gwanje_device
from management.device_client.gwanje_device import GwanjeDevice, Outbox, iso_timestamp, sign_v1, sign_v2
from tests.lossy_proxy import LossyProxy
from tests.processes import wait_until

from .mosquitto import Broker, Heard, Listener, broker_fixture, listener_fixture  # noqa: F401 (fixtures)
from .signed import is_signed, opened

UUID = "0d0b2a52-6a9e-4a55-9d68-0a6f0c8a1f11"
SECRET = "s3cr3t-of-the-device"
VECTORS = json.loads((Path(__file__).parents[1] / "data" / "signatures.json").read_text(encoding="utf-8"))
MODULE = Path(gwanje_device.__file__)

MakeDevice = Callable[..., GwanjeDevice]


def verified(token: bytes) -> dict[str, Any]:
    """Return the payload of a message after checking its signature with the test's secret."""
    assert is_signed(token, SECRET)
    return opened(token)


def numbers(messages: list[Heard]) -> list[tuple[int, int]]:
    """Return (boot, seq) of version 2 messages, each where it was first heard."""
    decoded = [verified(message.payload) for message in messages]
    return list(dict.fromkeys((message["boot"], message["seq"]) for message in decoded))


def temperatures(listener: Listener, count: int, seconds: float = 10) -> list[float]:
    """Wait for `count` different measurements and return them, each where it was first heard."""

    def heard() -> list[float]:
        payloads = [verified(message.payload) for message in listener.on("telemetry/")]
        return list({(p["boot"], p["seq"]): p["value"]["temp"] for p in payloads}.values())

    wait_until(lambda: len(heard()) >= count, seconds, f"{count} measurements")
    return heard()


@pytest.fixture
def device(broker: Broker, tmp_path: Path) -> Iterator[MakeDevice]:
    """Make devices of one identity and one state directory, and end them after the test."""
    made: list[GwanjeDevice] = []

    def make(**options: Any) -> GwanjeDevice:
        options = {"state_dir": tmp_path / "state", "reconnect_delay": (0.05, 0.2), **options}
        port = options.pop("port", broker.port)
        one = GwanjeDevice(UUID, SECRET, "127.0.0.1", port, "demo", "pw", **options)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


# --- signatures


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["scheme"] == "v1" and v["valid"]], ids=lambda v: v["name"])
def test_version_1_makes_the_hmac_of_every_valid_vector(vector: dict[str, Any]) -> None:
    unsigned = {key: value for key, value in vector["message"].items() if key != "hmac"}
    assert sign_v1(unsigned, vector["secret"])["hmac"] == vector["message"]["hmac"]


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if v["scheme"] == "v2" and v["valid"] and "payload" in v], ids=lambda v: v["name"]
)
def test_version_2_makes_the_token_of_every_valid_vector(vector: dict[str, Any]) -> None:
    assert sign_v2(vector["payload"], vector["secret"], "3") == vector["token"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    members=st.dictionaries(st.text(), JSON, max_size=6),
    timestamp=st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    secret=st.text(),
)
def test_version_1_is_the_formula_over_what_arrives(
    members: dict[str, Any], timestamp: str | float, secret: str
) -> None:
    arrived = json.loads(json.dumps(sign_v1({**members, "timestamp": timestamp}, secret)))
    claimed = arrived.pop("hmac")
    text = str(arrived["timestamp"]) + "|" + json.dumps(arrived, sort_keys=True)
    assert base64.b64decode(claimed) == hmac.digest(secret.encode(), text.encode(), "sha256")


@given(members=st.dictionaries(st.text(), JSON, max_size=6))
def test_version_2_carries_the_message_unchanged(members: dict[str, Any]) -> None:
    assert verified(sign_v2(members, SECRET, "1").encode()) == members


def test_a_signer_leaves_the_message_alone() -> None:
    message = {"timestamp": "2026-11-22T09:30:00Z", "value": {"temp": 1}}
    sign_v1(message, SECRET)
    assert message == {"timestamp": "2026-11-22T09:30:00Z", "value": {"temp": 1}}


# --- messages


def test_a_version_2_message_has_the_members_of_the_protocol(device: MakeDevice) -> None:
    one = device(cpu_serial="10000000a1b2c3d4", hardware_version="rev-2")
    message = one.compose("dht22", {"value": {"temp": 21.5}}, datetime(2026, 11, 22, 9, 30, tzinfo=UTC))
    assert message == {
        "timestamp": "2026-11-22T09:30:00+00:00",
        "device_uuid": UUID,
        "component": "dht22",
        "boot": one.boot,
        "seq": 1,
        "cpu_serial": "10000000a1b2c3d4",
        "hardware_version": "rev-2",
        "value": {"temp": 21.5},
    }


def test_a_version_1_message_is_as_the_old_firmware_sends_it(device: MakeDevice) -> None:
    one = device(signature="v1", cpu_serial="10000000a1b2c3d4")
    message = one.compose("dht22", {"value": {"temp": 25.5, "humidity": 45.1}}, "2026-11-22T09:30:00+00:00")
    payloads = json.loads((Path(__file__).parents[1] / "data" / "payloads.json").read_text(encoding="utf-8"))
    assert message in [case["payload"] for case in payloads]
    assert json.loads(one.encode(message)) == sign_v1(message, SECRET)


@pytest.mark.parametrize(
    ("component", "values", "complaint"),
    [
        ("dht22/status", {"value": 1}, "level of a topic"),
        ("", {"value": 1}, "level of a topic"),
        ("dht22", {"seq": 1}, "seq: reserved names"),
        ("dht22", {"session": "x", "iat": 1, "temp": 2}, "iat, session: reserved names"),
        ("dht22", {"firmware_version": "2"}, "firmware_version: reserved names"),
        ("dht22", {"gateway": "x"}, "gateway: reserved names"),
        ("dht22", {"value": "x" * 70_000}, "65536 bytes"),
    ],
)
@pytest.mark.parametrize("signature", ["v1", "v2"])
def test_what_cannot_be_sent_is_refused_and_uses_no_number(
    device: MakeDevice, signature: str, component: str, values: dict[str, Any], complaint: str
) -> None:
    one = device(signature=signature)
    with pytest.raises(ValueError, match=complaint):
        one.send(component, values)
    assert (one.seq, one.pending) == (0, 0)


@pytest.mark.parametrize("signature", ["v1", "v2"])
def test_values_that_json_lacks_are_sent_as_null_and_named_in_the_log(
    device: MakeDevice, signature: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = device(signature=signature)
    one.send("dht22", {"value": {"t": float("nan"), "h": 44.5, "list": [1, float("-inf")]}, "x": float("inf")})
    ((_row, _topic, payload),) = one.outbox.after(0, 9)
    message = opened(payload) if signature == "v2" else json.loads(payload)
    assert is_signed(payload, SECRET)
    assert (message["value"], message["x"]) == ({"t": None, "h": 44.5, "list": [1, None]}, None)
    assert [line.split(" is sent")[0] for line in caplog.messages] == [
        "value.t is nan: it", "value.list.1 is -inf: it", "x is inf: it",
    ]  # fmt: skip


def test_every_member_that_the_platform_reads_is_reserved() -> None:
    assert PROTOCOL_MEMBERS <= gwanje_device.RESERVED


def test_a_timestamp_without_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset"):
        iso_timestamp(datetime(2026, 11, 22, 9, 30))  # noqa: DTZ001 (that is the point)


# --- connection


@pytest.mark.parametrize("mqtt_version", ["3.1.1", "5"])
def test_birth_and_measurements_arrive_signed(device: MakeDevice, listener: Listener, mqtt_version: str) -> None:
    one = device(
        mqtt_version=mqtt_version, cpu_serial="10000000a1b2c3d4", hardware_version="rev-2", firmware_version="1.4"
    ).start()
    for temperature in range(50):
        one.send("dht22", {"value": {"temp": temperature}})
    heard = listener.wait(f"telemetry/demo/{UUID}/dht22", 50)
    assert [verified(message.payload)["value"]["temp"] for message in heard] == list(range(50))
    birth = verified(listener.on(f"device/birth/{UUID}")[0].payload)
    timestamp = datetime.fromisoformat(birth.pop("timestamp"))
    assert abs((datetime.now(UTC) - timestamp).total_seconds()) < 10
    assert birth == {
        "device_uuid": UUID,
        "session": one.session,
        "hardware_version": "rev-2",
        "firmware_version": "1.4",
        "cpu_serial": "10000000a1b2c3d4",
    }
    assert listener.heard.index(listener.on("device/birth")[0]) < listener.heard.index(heard[0])
    assert one.flush(5)


def test_a_dropped_connection_publishes_its_will_and_the_next_has_a_new_session(
    device: MakeDevice, listener: Listener
) -> None:
    one = device().start()
    sessions = []
    for count in (1, 2, 3):
        births = listener.wait(f"device/birth/{UUID}", count)
        sessions.append(verified(births[-1].payload)["session"])
        one.drop()
        wills = listener.wait(f"device/lwt/{UUID}", count)
        assert wills[-1].json() == {"device_uuid": UUID, "status": "OFFLINE", "session": sessions[-1]}
    assert len(set(sessions)) == 3


def test_a_killed_process_leaves_its_will(broker: Broker, listener: Listener, tmp_path: Path) -> None:
    with run_program(broker, tmp_path) as process:
        birth = listener.wait(f"device/birth/{UUID}", 1)[0].json()
        os.kill(process.pid, signal.SIGKILL)
        assert listener.wait(f"device/lwt/{UUID}", 1)[0].json()["session"] == birth["session"]


def test_a_clean_end_says_offline_once(device: MakeDevice, listener: Listener) -> None:
    one = device().start()
    listener.wait(f"device/birth/{UUID}", 1)
    one.send("dht22", {"value": {"temp": 1}})
    assert one.flush(5)
    one.close()
    listener.wait(f"device/lwt/{UUID}", 1)
    time.sleep(0.3)  # a will, were there one, comes within milliseconds
    (offline,) = listener.on(f"device/lwt/{UUID}")
    assert offline.json() == {"device_uuid": UUID, "status": "OFFLINE", "session": one.session}
    assert listener.heard[-1] == offline


def test_a_wrong_password_is_tried_again_and_not_fatal(broker: Broker, device: MakeDevice) -> None:
    conf = broker.directory / "mosquitto.conf"
    passwords = broker.directory / "passwords"
    broker.stop()
    anonymous = conf.read_text()
    passwords.touch(mode=0o600)
    conf.write_text(anonymous.replace("allow_anonymous true", f"password_file {passwords}"))
    broker.start()
    one = device().start()
    one.send("dht22", {"value": {"temp": 1}})
    wait_until(lambda: broker.log.read_text().count("not authorised") >= 2, 60, "two refused connections")
    assert one.pending == 1
    broker.stop()
    conf.write_text(anonymous)
    broker.start()
    assert one.flush(10)


# --- buffer


def test_the_buffer_bridges_a_restart_of_the_broker(broker: Broker, device: MakeDevice, listener: Listener) -> None:
    one = device().start()
    for number in range(150):
        if number == 50:
            broker.stop()
        if number == 100:
            broker.start()
        one.send("dht22", {"value": {"temp": number}})
        time.sleep(0.005)
    assert one.flush(15)
    assert temperatures(listener, 150, 15) == list(range(150))


@pytest.fixture
def proxy(broker: Broker) -> Iterator[LossyProxy]:
    """A connection to the broker that can lose bytes."""
    between = LossyProxy(broker.port)
    yield between
    between.close()


def test_what_was_sent_but_not_acknowledged_is_sent_again(
    proxy: LossyProxy, device: MakeDevice, listener: Listener
) -> None:
    one = device(port=proxy.port).start()
    listener.wait("device/birth/", 1)
    proxy.losing.set()
    for number in range(30):
        one.send("dht22", {"value": {"temp": number}})
    wait_until(lambda: len(one._inflight) >= 20, 60, "a full window")
    time.sleep(gwanje_device.FORGET_EVERY + 0.6)  # long enough for a wrong removal to reach the disk
    assert (one.pending, len(one.outbox), one.acknowledged) == (30, 30, 0)
    proxy.losing.clear()
    proxy.cut()
    assert one.flush(10)
    assert temperatures(listener, 30) == list(range(30))


def test_what_was_acknowledged_is_not_sent_again(device: MakeDevice, listener: Listener) -> None:
    one = device().start()
    for number in range(10):
        one.send("dht22", {"value": {"temp": number}})
    assert one.flush(5)
    one.drop()
    listener.wait("device/birth/", 2)
    one.send("dht22", {"value": {"temp": 10}})
    assert one.flush(5)
    assert len(listener.wait("telemetry/", 11)) == 11
    assert one.acknowledged == 11


def test_a_silent_connection_is_given_up_after_the_keep_alive(
    proxy: LossyProxy, device: MakeDevice, listener: Listener
) -> None:
    one = device(port=proxy.port, keepalive=1).start()
    listener.wait("device/birth/", 1)
    proxy.losing.set()
    wait_until(lambda: not one.connected, 60, "the device to notice")
    proxy.losing.clear()
    one.send("dht22", {"value": {"temp": 1}})
    listener.wait("device/birth/", 2)
    assert one.flush(10)


SENDS_AND_WAITS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from gwanje_device import GwanjeDevice
device = GwanjeDevice(sys.argv[2], sys.argv[3], "127.0.0.1", int(sys.argv[4]), "demo", "pw", state_dir=sys.argv[5])
device.start()
for number in range(40):
    device.send("dht22", {"value": {"temp": number}})
assert "django" not in sys.modules
sys.stdout.write(f"{device.boot}\\n")
sys.stdout.flush()
time.sleep(60)
"""


def test_the_buffer_survives_a_killed_process(
    broker: Broker, device: MakeDevice, listener: Listener, tmp_path: Path
) -> None:
    broker.stop()
    arguments = [str(MODULE.parent), UUID, SECRET, str(broker.port), str(tmp_path / "state")]
    with subprocess.Popen(
        [sys.executable, "-c", SENDS_AND_WAITS, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        boot = int(process.stdout.readline())
        process.kill()
    broker.start()
    one = device()
    assert (one.boot, one.pending) == (boot + 1, 40)
    one.send("dht22", {"value": {"temp": 40}})
    one.start()
    assert one.flush(10)
    assert temperatures(listener, 41) == list(range(41))
    assert numbers(listener.on("telemetry/")) == [*((boot, seq) for seq in range(1, 41)), (boot + 1, 1)]


def test_boot_and_seq_only_rise_over_restarts(device: MakeDevice, listener: Listener) -> None:
    for _ in range(3):
        one = device().start()
        for number in range(5):
            one.send("dht22", {"value": {"temp": number}})
        assert one.flush(5)
        one.close()
    listener.wait("telemetry/", 15)
    pairs = numbers(listener.on("telemetry/"))
    boots = sorted({boot for boot, _ in pairs})
    assert boots == [boots[0], boots[0] + 1, boots[0] + 2]
    assert pairs == [(boot, seq) for boot in boots for seq in range(1, 6)]


def test_messages_leave_the_buffer_only_when_they_are_acknowledged(device: MakeDevice, tmp_path: Path) -> None:
    one = device()
    for number in range(5):
        one.send("dht22", {"value": {"temp": number}})
    one.close()
    again = device()
    assert again.pending == 5
    again.start()
    assert again.flush(5)
    again.close()
    assert device().pending == 0


def test_a_full_buffer_gives_up_the_oldest(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "box.sqlite3", limit=3)
    for number in range(5):
        outbox.put("t", str(number).encode())
    assert [payload for _, _, payload in outbox.after(0, 10)] == [b"2", b"3", b"4"]
    assert (len(outbox), outbox.dropped) == (3, 2)
    outbox.close()


def test_two_processes_cannot_share_a_buffer(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "box.sqlite3")
    with pytest.raises(RuntimeError, match="does another process"):
        Outbox(tmp_path / "box.sqlite3")
    first.close()


def test_a_damaged_buffer_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "box.sqlite3"
    path.write_bytes(b"this was a database before the power went" * 100)
    outbox = Outbox(path)
    outbox.put("t", b"1")
    assert len(outbox) == 1
    assert len(list(tmp_path.glob("box.damaged-*"))) == 1
    outbox.close()


def test_every_message_is_on_the_disk_before_send_returns(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "box.sqlite3")
    assert outbox._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL: fsync at every commit
    outbox.put("t", b"1")
    assert not outbox._db.in_transaction
    outbox.close()


def test_a_new_card_does_not_repeat_the_numbers_of_the_old_one(tmp_path: Path) -> None:
    old, new = Outbox(tmp_path / "old.sqlite3"), Outbox(tmp_path / "new.sqlite3")
    boots = [old.next_boot(), old.next_boot()]
    assert boots[1] == boots[0] + 1
    assert new.next_boot() >= boots[0] >= time.time() - 60
    old.close()
    new.close()


# --- commands


@pytest.mark.parametrize("signature", ["v1", "v2"])
def test_a_command_is_handled_and_answered(
    broker: Broker, device: MakeDevice, listener: Listener, signature: str
) -> None:
    commands: list[dict[str, Any]] = []

    def handle(command: dict[str, Any]) -> dict[str, Any]:
        commands.append(command)
        return {"state": command["state"]}

    device(signature=signature, on_command=handle).start()
    listener.wait(f"device/birth/{UUID}", 1)
    topic = f"command/demo/{UUID}"
    broker.publish(f"{topic}/request", b'{"id": "c1", "state": "ON"}')
    broker.publish(f"{topic}/request", b'{"id": "c2"}')
    broker.publish(f"{topic}/request", b"not JSON")
    responses = listener.wait(f"{topic}/response", 3)
    answers = [verified(response.payload) for response in responses]
    assert [(answer["id"], answer["status"]) for answer in answers] == [("c1", "ok"), ("c2", "error"), (None, "error")]
    assert answers[0]["result"] == {"state": "ON"}
    assert answers[1]["detail"] == "KeyError: 'state'"
    assert commands == [{"id": "c1", "state": "ON"}, {"id": "c2"}]


# --- as a program


def run_program(broker: Broker, tmp_path: Path) -> "subprocess.Popen[bytes]":
    """Start the copied module as `python gwanje_device.py config.json`, as one does on a Pi."""
    copied = tmp_path / "gwanje_device.py"
    copied.write_bytes(MODULE.read_bytes())
    config = {"uuid": UUID, "secret": SECRET, "host": "127.0.0.1", "port": broker.port, "tenant": "demo"}
    config |= {"mqtt_password": "pw", "signature": "v1", "components": ["dht22-2"], "interval": 0.1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return subprocess.Popen([sys.executable, "gwanje_device.py", "config.json"], cwd=tmp_path, stderr=subprocess.PIPE)


def test_the_module_alone_is_a_program_that_ends_cleanly(broker: Broker, listener: Listener, tmp_path: Path) -> None:
    with run_program(broker, tmp_path) as process:
        heard = listener.wait(f"telemetry/demo/{UUID}/dht22-2", 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    message = heard[0].json()
    assert sign_v1(message, SECRET) == message
    assert -20 < message["value"]["temp"] < 50
    assert 0 < message["value"]["humidity"] < 100
    assert listener.wait(f"device/lwt/{UUID}", 1)[0].json()["status"] == "OFFLINE"
    with sqlite3.connect(tmp_path / "state" / f"{UUID}.sqlite3") as db:
        assert db.execute("SELECT COUNT(*) FROM outbox").fetchone() == (0,)


def test_a_config_that_lacks_something_says_what(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"uuid": "x", "secret": "y", "host": "h", "port": 1}')
    done = subprocess.run(
        [sys.executable, str(MODULE), str(tmp_path / "config.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "missing tenant, mqtt_password" in done.stderr


def test_the_module_stays_within_python_3_9_and_one_dependency() -> None:
    tree = ast.parse(MODULE.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in imported}
    assert roots - sys.stdlib_module_names == {"paho", "cryptography"}
    outside = {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    outside |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith("cryptography") for name in outside), "needed only to take a new key"
