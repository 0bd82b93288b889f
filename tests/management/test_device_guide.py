"""The device guide says what is so, and its examples run."""

import base64
import hmac
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from management.device_client.gwanje_device import RESERVED, GwanjeDevice, device_from_config, sign_v2
from management.management.commands.simulate_devices import Command
from management.simulator.faults import FAULTS
from telemetry.models import Reason

from .mosquitto import Broker, Listener, broker_fixture, listener_fixture  # noqa: F401 (fixtures)
from .signed import is_signed, opened

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "device-guide.md").read_text(encoding="utf-8")
SCRIPT = DOCS / "examples" / "send_v1.sh"
UUID = "0d0b2a52-6a9e-4a55-9d68-0a6f0c8a1f11"


def section(title: str) -> str:
    """Return the text under a heading of the guide."""
    return GUIDE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(language: str, title: str) -> list[str]:
    """Return the code blocks of a language in a section."""
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)


def first_column(title: str, below: str = "") -> list[str]:
    """Return the names in backticks in the first column of a section's table; `below` is a heading within it."""
    _, found, text = section(title).partition(f"### {below}\n") if below else ("", "-", section(title))
    assert found, below
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_every_reason_is_explained_once() -> None:
    assert sorted(first_column("When a message is rejected")) == sorted(Reason.values)


def test_every_option_and_fault_of_the_simulator_is_explained() -> None:
    parser = Command().create_parser("manage.py", "simulate_devices")
    inherited = {"--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback"}
    inherited |= {"--no-color", "--force-color", "--skip-checks"}
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    assert set(first_column("A fleet without hardware")) == options - inherited
    for fault in FAULTS:
        assert f"`{fault}`" in section("A fleet without hardware")


def test_the_simulator_takes_the_commands_of_the_guide() -> None:
    parser = Command().create_parser("manage.py", "simulate_devices")
    commands = [line.split() for line in blocks("sh", "A fleet without hardware")[0].splitlines()]
    assert len(commands) == 2
    for command in commands:
        assert command[1:3] == ["manage.py", "simulate_devices"]
        parser.parse_args(command[3:])


def test_the_configuration_of_the_guide_makes_a_device(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(blocks("json", "On a Raspberry Pi")[0])
    device, _config = device_from_config(path)
    assert (device.uuid, device.signature, device.kid) == (UUID, "v2", "1")
    device.close()


def test_the_program_of_the_guide_runs(broker: Broker, listener: Listener, tmp_path: Path) -> None:
    (program,) = blocks("python", "On a Raspberry Pi")
    program = program.replace("gwanje.example.com", "127.0.0.1").replace("1883", str(broker.port))
    shutil.copy(Path(sys.modules[GwanjeDevice.__module__].__file__ or ""), tmp_path)
    (tmp_path / "program.py").write_text(program)
    with subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path) as process:
        heard = listener.wait(f"telemetry/demo/{UUID}/dht22", 1)
        broker.publish(f"command/demo/{UUID}/request", b'{"id": 7, "state": "ON"}')
        response = listener.wait(f"command/demo/{UUID}/response", 1)[0]
        process.kill()
    assert is_signed(heard[0].payload, "the device's secret")
    assert opened(heard[0].payload)["value"] == {"temp": 21.5, "humidity": 44.0}
    answer = opened(response.payload)
    assert (answer["id"], answer["status"], answer["result"]) == (7, "ok", {"state": "ON"})


def test_the_guide_shows_the_script_as_it_is() -> None:
    assert SCRIPT.read_text(encoding="utf-8") in blocks("sh", "With mosquitto_pub")


def signing_lines() -> str:
    """Return the Python of the script that signs."""
    return SCRIPT.read_text(encoding="utf-8").split("<<'PYTHON'\n")[2].split("PYTHON\n")[0]


def test_ten_lines_of_standard_python_sign() -> None:
    lines = signing_lines()
    assert len(lines.splitlines()) <= 10
    environment = {"SECRET": "s3cr3t", "CPU_SERIAL": "10000000a1b2c3d4"}
    command = [sys.executable, "-I", "-S", "-c", lines]  # without installed packages
    message = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    claimed = message.pop("hmac")
    text = f"{message['timestamp']}|{json.dumps(message, sort_keys=True)}"
    assert base64.b64decode(claimed) == hmac.digest(b"s3cr3t", text.encode(), "sha256")
    assert message["cpu_serial"] == "10000000a1b2c3d4"


# --- other clients


def client_config(port: int, directory: Path) -> str:
    """Return the path of the guide's configuration, for the test's broker."""
    config = json.loads(blocks("json", "On a Raspberry Pi")[0])
    path = directory / "config.json"
    path.write_text(json.dumps(config | {"host": "127.0.0.1", "port": port}))
    return str(path)


def is_installed(*command: str) -> bool:
    """Return whether the command, which loads a library, succeeds."""
    try:
        return subprocess.run(command, capture_output=True, timeout=600, check=False).returncode == 0
    except FileNotFoundError:
        return False


def check_birth_and_measurement(listener: Listener) -> None:
    birth, measurement = listener.wait("device/birth/", 1)[0], listener.wait("telemetry/", 1)[0]
    assert (birth.topic, measurement.topic) == (f"device/birth/{UUID}", f"telemetry/demo/{UUID}/dht22")
    assert is_signed(birth.payload, "the device's secret")
    assert is_signed(measurement.payload, "the device's secret")
    message = opened(measurement.payload)
    assert (message["device_uuid"], message["component"], message["seq"]) == (UUID, "dht22", 1)
    assert message["value"] == {"temp": 21.5, "humidity": 44}
    assert opened(birth.payload)["session"]


CLIENTS = {
    "mqtt.js": (["node", "-e", "require('mqtt')"], ["node", "docs/examples/send_v2.js"]),
    "aiomqtt": ([sys.executable, "-c", "import aiomqtt"], [sys.executable, "docs/examples/send_v2_aiomqtt.py"]),
}


@pytest.mark.parametrize("library", CLIENTS)
def test_the_example_of_a_library_sends_a_birth_and_a_measurement(
    library: str, broker: Broker, listener: Listener, tmp_path: Path
) -> None:
    """Where the library is installed (for mqtt.js in `NODE_PATH`)."""
    probe, command = CLIENTS[library]
    if not is_installed(*probe):
        pytest.skip(f"{library} is not installed")
    done = subprocess.run(
        [*command, client_config(broker.port, tmp_path), "dht22"],
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "acknowledged\n"), done.stderr
    check_birth_and_measurement(listener)


def test_a_small_client_of_mqtt_3_1_1_sends_with_qos_0(broker: Broker, listener: Listener) -> None:
    """As PubSubClient does: a clean session, a will, a buffer of 1,024 bytes, and no acknowledgement."""

    def text(value: bytes) -> bytes:
        return len(value).to_bytes(2, "big") + value

    def packet(kind: int, body: bytes) -> bytes:
        assert len(body) <= 1024 - 5, "more than the buffer of the guide"
        low, high = len(body) % 128, len(body) // 128
        return bytes([kind, *((low | 128, high) if high else (low,))]) + body

    uuid, session = UUID.encode(), "boot-1"
    secret, now = "the device's secret", "2026-11-22T09:30:00+00:00"
    will = json.dumps({"device_uuid": UUID, "status": "OFFLINE", "session": session}).encode()
    birth = {"device_uuid": UUID, "session": session, "timestamp": now}
    message = {"timestamp": now, "device_uuid": UUID, "component": "dht22", "boot": 1, "seq": 1}
    message["value"] = {"temp": 21.5, "humidity": 44}
    with socket.create_connection(("127.0.0.1", broker.port), 60) as connection:
        # flags: user name, password, will with QoS 1, clean session
        head = text(b"MQTT") + b"\x04\xce" + (30).to_bytes(2, "big")
        connection.sendall(packet(0x10, head + b"".join(map(text, (uuid, b"device/lwt/" + uuid, will, uuid, b"pw")))))
        assert connection.recv(4) == b"\x20\x02\x00\x00"
        for topic, content in ((f"device/birth/{UUID}", birth), (f"telemetry/demo/{UUID}/dht22", message)):
            connection.sendall(packet(0x30, text(topic.encode()) + sign_v2(content, secret, "1").encode()))
        check_birth_and_measurement(listener)
    gone = listener.wait("device/lwt/", 1)[0]
    assert json.loads(gone.payload)["session"] == session, "the connection broke: the broker publishes the will"


@pytest.fixture
def asked() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """An address that records (path, Authorization) of each request."""
    requests: list[tuple[str, str | None]] = []

    class Notes(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"results": []}')

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Notes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/t/demo/", requests
        server.shutdown()


def test_the_reserved_names_of_the_guide_are_those_of_the_device_client() -> None:
    assert set(first_column("A measurement", "Reserved names")) == RESERVED


def path_without_mosquitto_pub(directory: Path) -> str:
    """Return a PATH with the programs that the script needs, and no mosquitto_pub."""
    directory.mkdir()
    for name in ("curl", "sleep"):
        (directory / name).symlink_to(shutil.which(name) or "")
    (directory / "python3").symlink_to(sys.executable)
    return str(directory)


@pytest.mark.parametrize("program", ["mosquitto_pub", "python3"])
def test_the_script_sends_a_signed_message_and_asks_for_the_latest_values(
    program: str,
    broker: Broker,
    listener: Listener,
    asked: tuple[str, list[tuple[str, str | None]]],
    tmp_path: Path,
) -> None:
    url, requests = asked
    device = {"uuid": UUID, "mqtt_password": "it's secret", "secret": 's3 "cr3t', "cpu_serial": "1000", "kid": "1"}
    others = [
        {**device, "uuid": "simulated", "signature": "v1", "simulated": True},
        {**device, "uuid": "version-2", "signature": "v2", "simulated": False},
    ]
    devices = [*others, {**device, "signature": "v1", "simulated": False}]
    tenant = {"slug": "demo", "url": url, "api_key": "key-1", "devices": devices}
    quickstart = tmp_path / "quickstart.json"
    quickstart.write_text(json.dumps({"mqtt": {"host": "127.0.0.1", "port": broker.port}, "tenants": [tenant]}))
    environment = dict(os.environ)
    if program == "python3":
        environment["PATH"] = path_without_mosquitto_pub(tmp_path / "bin")
    elif not shutil.which(program):
        pytest.skip("mosquitto_pub is of the package mosquitto-clients")
    command = ["/bin/sh", str(SCRIPT), str(quickstart)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert ("sending with Python" in done.stdout) is (program == "python3")
    (heard,) = listener.wait("telemetry/", 1)
    assert heard.topic == f"telemetry/demo/{UUID}/dht22"
    assert is_signed(heard.payload, 's3 "cr3t')
    assert requests == [(f"/t/demo/api/v1/devices/{UUID}/latest/", "Bearer key-1")]
    assert '{"results": []}' in done.stdout
