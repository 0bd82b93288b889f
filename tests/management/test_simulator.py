"""The simulated fleet against a real broker: pace, faults, the bridge account, the command and its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from management.simulator.faults import OUT_OF_RANGE, choose_fault, parse_faults
from management.simulator.fleet import Fleet, FleetOptions, Summary
from management.simulator.inventory import InventoryUnusable, load_inventory
from management.simulator.sensors import SENSORS, measure
from tests.processes import wait_until

from .mosquitto import Broker, Heard, Listener, broker_fixture, listener_fixture  # noqa: F401 (fixtures)
from .signed import is_signed, opened

COMPONENTS = ["dht22", "bmp280-2"]
SERIAL = "10000000a1b2c3d4"


def entry(number: int, **changes: Any) -> dict[str, Any]:
    """Return a device of quickstart.json; the even ones sign with version 1."""
    return {
        "uuid": f"00000000-0000-4000-8000-{number:012d}",
        "mqtt_username": "unused",
        "mqtt_password": f"password-{number}",
        "secret": f"secret-{number}",
        "signature": "v1" if number % 2 == 0 else "v2",
        "kid": "3",
        "cpu_serial": SERIAL,
        "hardware_version": "rev-2",
        "components": COMPONENTS,
        "simulated": True,
        **changes,
    }


WriteQuickstart = Callable[..., Path]


@pytest.fixture
def quickstart(broker: Broker, tmp_path: Path) -> WriteQuickstart:
    """Write a quickstart.json with these devices, and return its path."""

    def write(*devices: dict[str, Any]) -> Path:
        path = tmp_path / "quickstart.json"
        mqtt = {"host": "127.0.0.1", "port": broker.port, "bridge": {"username": "bridge", "password": "pw"}}
        path.write_text(json.dumps({"mqtt": mqtt, "tenants": [{"slug": "demo", "devices": devices}]}))
        return path

    return write


def run_fleet(path: Path, **options: Any) -> Summary:
    """Run the simulated devices of the file."""
    inventory = load_inventory(path)
    return Fleet(inventory, inventory.choose(), FleetOptions(**options)).run(lambda _summary: None)


def secret_of(message: Heard) -> str:
    """Return the secret of the device in the topic."""
    return f"secret-{int(message.topic.split('/')[2][-12:])}"


# --- sensors


@pytest.mark.parametrize(
    ("component", "members"),
    [
        ("dht22", {"temp", "humidity"}),
        ("dht22-2", {"temp", "humidity"}),
        ("bmp280", {"pressure", "temp"}),
        ("mh-z19", {"co2"}),
        ("mh-z19-roof", {"co2"}),
        ("soil", {"moisture"}),
        ("relay", {"state"}),
        ("pump-3", {"state"}),
        ("dht22x", {"value"}),
        ("geiger", {"value"}),
    ],
)
def test_a_component_measures_what_its_type_measures(component: str, members: set[str]) -> None:
    assert set(measure(component, datetime.now(UTC), Random(1))["value"]) == members


RANGES = {
    "temp": (5, 35),
    "humidity": (20, 100),
    "pressure": (990, 1040),
    "co2": (300, 1000),
    "moisture": (20, 60),
    "value": (20, 80),
}


@pytest.mark.parametrize("component", [*SENSORS, "geiger"])
def test_values_are_a_greenhouse_all_day(component: str) -> None:
    start, rng = datetime(2026, 7, 1, tzinfo=UTC), Random(1)
    days = [measure(component, start + timedelta(minutes=10 * step), rng)["value"] for step in range(1000)]
    for name in days[0]:
        values = [value[name] for value in days]
        if name == "state":
            assert set(values) == {"ON", "OFF"}
        else:
            low, high = RANGES[name]
            assert low <= min(values) < max(values) <= high


def test_afternoons_are_warmer_and_drier_than_nights() -> None:
    day, rng = datetime(2026, 7, 1, tzinfo=UTC), Random(1)
    night, afternoon = (measure("dht22", day + timedelta(hours=hour), rng)["value"] for hour in (3, 15))
    assert night["temp"] + 8 < afternoon["temp"]
    assert night["humidity"] > afternoon["humidity"] + 20


# --- faults


def test_faults_are_parsed() -> None:
    assert parse_faults("late=0.02, duplicate=0.5") == {"late": 0.02, "duplicate": 0.5}
    assert parse_faults("") == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lost=0.1", "unknown fault 'lost': known are bad_signature"),
        ("late", "late needs a probability"),
        ("late=often", "could not convert"),
        ("late=1.5", "between 0 and 1"),
        ("late=0.6,future=0.6", "add up to 1.2"),
    ],
)
def test_wrong_faults_are_refused_with_a_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_faults(text)


def test_faults_come_as_often_as_asked() -> None:
    rng = Random(1)
    counts = Counter(choose_fault({"late": 0.2, "future": 0.05}, rng) for _ in range(10_000))
    assert counts["late"] == pytest.approx(2000, rel=0.1)
    assert counts["future"] == pytest.approx(500, rel=0.2)
    assert counts[None] == pytest.approx(7500, rel=0.05)


def is_refused(message: Heard, fault: str) -> bool:
    """Tell whether the message has the fault, and a right signature where the fault is another one."""
    secret, now = secret_of(message), datetime.now(UTC)
    if fault == "malformed":
        return not is_signed(message.payload, secret)
    body = opened(message.payload)
    when = datetime.fromisoformat(body["timestamp"])
    faulty = {
        "bad_signature": not is_signed(message.payload, secret),
        "unknown_component": message.topic.split("/")[3] not in COMPONENTS,
        "late": when < now - timedelta(minutes=5),
        "future": when > now + timedelta(minutes=5),
        "wrong_cpu_serial": body["cpu_serial"] != SERIAL,
        "out_of_range": OUT_OF_RANGE in body["value"].values(),
    }
    others = {name for name, found in faulty.items() if found and name != fault}
    return faulty[fault] and not others


@pytest.mark.parametrize(
    "fault",
    ["bad_signature", "unknown_component", "malformed", "late", "future", "wrong_cpu_serial", "out_of_range"],
)
def test_a_faulty_message_has_its_fault_and_no_other(
    quickstart: WriteQuickstart, listener: Listener, fault: str
) -> None:
    path = quickstart(entry(1), entry(2))
    summary = run_fleet(path, rate=200, messages=20, faults={fault: 1.0}, seed=1)
    assert (summary.faults, summary.sent, summary.acknowledged) == ({fault: 20}, 20, 20)
    heard = listener.wait("telemetry/demo/", 20)
    assert all(is_refused(message, fault) for message in heard)


def test_a_switch_is_never_out_of_range(quickstart: WriteQuickstart) -> None:
    path = quickstart(entry(1, components=["relay"]))
    summary = run_fleet(path, rate=100, messages=5, faults={"out_of_range": 1.0})
    assert (summary.faults, summary.acknowledged) == ({}, 5)


def test_duplicates_are_the_same_message_twice(quickstart: WriteQuickstart, listener: Listener) -> None:
    summary = run_fleet(quickstart(entry(1), entry(2)), rate=200, messages=10, faults={"duplicate": 1.0})
    assert (summary.sent, summary.faults) == (20, {"duplicate": 10})
    heard = Counter(listener.wait("telemetry/demo/", 20))
    assert set(heard.values()) == {2}
    assert len(heard) == 10


def test_a_disconnect_shows_as_a_will_and_loses_nothing(quickstart: WriteQuickstart, listener: Listener) -> None:
    summary = run_fleet(quickstart(entry(1)), rate=20, messages=40, faults={"disconnect": 0.1}, seed=4)
    dropped = summary.faults["disconnect"]
    assert dropped >= 1
    assert dropped <= summary.connections <= dropped + 1  # a drop at the very end is not repaired
    assert (summary.acknowledged, summary.waiting) == (40, 0)
    listener.wait("telemetry/demo/", 40)
    births = [opened(birth.payload)["session"] for birth in listener.on("device/birth/")]
    wills = [will.json()["session"] for will in listener.wait("device/lwt/", summary.connections)]
    assert len(set(births)) == summary.connections
    assert wills == births


# --- the fleet


def test_every_device_reports_signed_by_itself(quickstart: WriteQuickstart, listener: Listener) -> None:
    path = quickstart(*(entry(number) for number in range(5)), entry(9, simulated=False))
    summary = run_fleet(path, rate=250, messages=200)
    assert (summary.devices, summary.sent, summary.acknowledged, summary.waiting) == (5, 200, 200, 0)
    heard = listener.wait("telemetry/demo/", 200)
    assert all(is_signed(message.payload, secret_of(message)) for message in heard)
    sources = Counter(message.topic for message in heard)
    assert len(sources) == 10
    assert set(sources.values()) == {20}
    numbers = [opened(message.payload)["seq"] for message in heard if "000001/" in message.topic]
    assert numbers == list(range(1, 41))
    assert len(listener.on("device/birth/")) == 5
    offline = listener.wait("device/lwt/", 5)
    assert {message.json()["status"] for message in offline} == {"OFFLINE"}


def test_the_rate_is_kept(quickstart: WriteQuickstart) -> None:
    # A rate that a loaded machine can keep too.
    summary = run_fleet(quickstart(*(entry(number) for number in range(50))), rate=40, duration=3)
    assert summary.sent == pytest.approx(120, rel=0.1)
    assert summary.acknowledged == summary.sent


def test_an_interval_is_a_message_of_every_component(quickstart: WriteQuickstart) -> None:
    summary = run_fleet(quickstart(entry(1), entry(2)), interval=0.5, duration=1.9)
    assert summary.sent == pytest.approx(2 * 2 * 4, abs=2)


def test_the_bridge_account_speaks_for_all_over_one_connection(
    broker: Broker, quickstart: WriteQuickstart, listener: Listener
) -> None:
    path = quickstart(*(entry(number) for number in range(20)))
    summary = run_fleet(path, rate=400, messages=200, via_bridge=True)
    assert (summary.connections, summary.acknowledged) == (1, 200)
    heard = listener.wait("telemetry/demo/", 200)
    assert all(is_signed(message.payload, secret_of(message)) for message in heard)
    assert len({message.topic.split("/")[2] for message in heard}) == 20
    assert len({opened(birth.payload)["session"] for birth in listener.on("device/birth/")}) == 20
    assert len(listener.wait("device/lwt/", 20)) == 20
    clients = [line for line in broker.log.read_text().splitlines() if "New client connected" in line]
    assert len([line for line in clients if " as bridge " in line]) == 1
    assert len(clients) == 2  # the other one is the test's


def test_a_fleet_waits_for_its_broker(broker: Broker, quickstart: WriteQuickstart) -> None:
    path = quickstart(entry(1))
    broker.stop()
    inventory = load_inventory(path)
    fleet = Fleet(inventory, inventory.choose(), FleetOptions(rate=20, messages=30))
    emitted = fleet._emit

    def start_in_the_middle(source: Any) -> None:
        emitted(source)
        if fleet.summary().sent == 10:
            broker.start()

    fleet._emit = start_in_the_middle  # type: ignore[method-assign]
    summary = fleet.run(lambda _summary: None)
    assert (summary.sent, summary.acknowledged) == (30, 30)


# --- the inventory


def test_devices_are_chosen_by_name_by_count_or_because_they_are_simulated(quickstart: WriteQuickstart) -> None:
    inventory = load_inventory(quickstart(entry(1), entry(2, simulated=False), entry(3)))
    uuids = [device.uuid for device in inventory.devices]
    assert [device.uuid for device in inventory.choose()] == [uuids[0], uuids[2]]
    assert [device.uuid for device in inventory.choose(count=1)] == uuids[:1]
    assert [device.uuid for device in inventory.choose([uuids[1]])] == uuids[1:2]
    with pytest.raises(InventoryUnusable, match="no such device in the file: nobody"):
        inventory.choose(["nobody"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "make run"),
        ("{", "cannot be read"),
        ("[]", "not have the form"),
        ('{"mqtt": {"host": "h"}, "tenants": []}', "'port'"),
        ('{"mqtt": {"host": "h", "port": 1}, "tenants": []}', "no device to simulate"),
    ],
)
def test_an_unusable_file_is_refused_with_a_hint(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = tmp_path / "quickstart.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CommandError, match=complaint):
        call_command("simulate_devices", quickstart=path)


# --- the command


def test_the_command_prints_a_summary_in_json(quickstart: WriteQuickstart) -> None:
    out, err = StringIO(), StringIO()
    arguments = ["--rate", "100", "--messages", "20", "--seed", "1", "--faults", "late=0.5", "--json"]
    path = quickstart(entry(1), entry(2))
    call_command("simulate_devices", "--quickstart", str(path), *arguments, stdout=out, stderr=err)
    summary = json.loads(out.getvalue())
    assert summary.pop("seconds") > 0
    assert summary.pop("rate") > 0
    late = summary.pop("faults")["late"]
    assert 0 < late < 20
    assert summary == {
        "devices": 2,
        "connections": 2,
        "sent": 20,
        "acknowledged": 20,
        "refused": 0,
        "dropped": 0,
        "waiting": 0,
    }


def test_the_command_overrides_the_signature_and_drives_named_devices(
    quickstart: WriteQuickstart, listener: Listener
) -> None:
    device = entry(2, simulated=False)
    path = quickstart(entry(1), device)
    options = ["--device", device["uuid"], "--signature", "v2", "--messages", "2", "--rate", "50"]
    out = StringIO()
    call_command("simulate_devices", "--quickstart", str(path), *options, stdout=out)
    heard = listener.wait("telemetry/", 2)
    assert {message.topic.split("/")[2] for message in heard} == {device["uuid"]}
    assert all(message.payload.count(b".") == 2 for message in heard)
    assert "2 sent" in out.getvalue()
    assert "2 acknowledged" in out.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [["--rate", "0"], ["--count", "0"], ["--faults", "late=2"], ["--rate", "1", "--interval", "1"]],
)
def test_wrong_options_are_refused(quickstart: WriteQuickstart, arguments: list[str]) -> None:
    with pytest.raises(CommandError, match=arguments[-2]):
        call_command("simulate_devices", "--quickstart", str(quickstart(entry(1))), *arguments)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_cleanly(
    quickstart: WriteQuickstart, listener: Listener, number: signal.Signals
) -> None:
    path = quickstart(entry(1), entry(2))
    command = [sys.executable, "manage.py", "simulate_devices", "--quickstart", str(path), "--rate", "50", "--json"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        listener.wait("telemetry/", 10, seconds=120)
        os.kill(process.pid, number)
        begun = time.monotonic()
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - begun < 60
        assert process.returncode == 0
    summary = json.loads(output)
    assert summary["sent"] == summary["acknowledged"] >= 10
    assert len(listener.wait("device/lwt/", 2)) == 2
    wait_until(lambda: len(listener.on("telemetry/")) == summary["sent"], 10, "every message that was sent")


def test_a_simulated_device_keeps_a_new_key_in_its_file(
    quickstart: WriteQuickstart, broker: Broker, listener: Listener
) -> None:
    from uuid import UUID

    from devices.services.broker import commands
    from devices.services.rotation import secret_transport

    path = quickstart(entry(1), entry(3))
    uuid = entry(1)["uuid"]
    sealed = secret_transport.encrypt_secret(
        "the next secret", "secret-1", uuid=UUID(uuid), old_version=3, new_version=4
    )
    command = commands.compose("rotate_key", UUID(uuid), kid="4", **sealed)
    run_fleet(path, messages=4, rate=50)  # its session at the broker keeps the command for it
    broker.publish(f"command/demo/{uuid}/request", commands.sign(command, b"secret-1", 3))
    run_fleet(path, duration=2, rate=20)
    answer = opened(listener.wait(f"command/demo/{uuid}/response", 1)[0].payload)
    assert answer["status"] == "ok", answer
    kept = {device.uuid: (device.kid, device.secret) for device in load_inventory(path).devices}
    assert kept == {uuid: ("4", "the next secret"), entry(3)["uuid"]: ("3", "secret-3")}
