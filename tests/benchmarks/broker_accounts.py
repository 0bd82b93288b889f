"""Ways to keep Mosquitto's accounts: what a change costs, who is disturbed by it, and what each refuses.

The plugin with one role for all devices (ours), the plugin with a role for each, and a password file that is read again
at SIGHUP; the two files of topic patterns are the same.
"""

import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from management.embedded import mosquitto_package
from tests.benchmarks.broker_ways import PASSWORD, WAYS, Broker, running

_BYSTANDERS = 200
_CHANGES = 5
_MANY = 100


def run(*, sizes: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """For each way and number of accounts what one change and a hundred cost; for each way what it refuses."""
    package = mosquitto_package.obtain(Path(tempfile.gettempdir()), Path(os.devnull), say)
    figures: dict[str, Any] = {"mosquitto": ".".join(map(str, package.version)), "bystanders": _BYSTANDERS}
    for way in WAYS:
        figures[way] = {}
        for size in sizes:
            say(f"{way} with {size} accounts")
            with running(package, way, max(size, _BYSTANDERS + 1)) as broker:
                figures[way][str(size)] = _costs(broker)
        with running(package, way, 3) as broker:
            figures[way]["refuses"] = _refusals(broker)
    return figures


# --- What a change costs ------------------------------------------------------------------------------------


def _costs(broker: Broker) -> dict[str, float]:
    names = (broker.directory / "names").read_text().split()
    bystanders = [_connect_raw(broker.port, name) for name in names[:_BYSTANDERS]]
    one, stalls = [], []
    with _stopwatch(broker) as longest:
        for _ in range(_CHANGES):
            longest.clear()
            one.append(_timed(lambda: _add_and_try(broker, [str(uuid4())])))
            stalls.append(_longest(longest))
        longest.clear()
        many = _timed(lambda: _add_and_try(broker, [str(uuid4()) for _ in range(_MANY)]))
        stall_of_many = _longest(longest)
    alive = sum(_is_open(connection) for connection in bystanders)
    if alive < len(bystanders):
        raise RuntimeError(f"{len(bystanders) - alive} sessions were closed by a change that concerned none of them.")
    return {
        "one_ms": round(statistics.median(one), 1),
        "one_stall_ms": round(statistics.median(stalls), 1),
        f"of_{_MANY}_each_ms": round(many / _MANY, 1),
        f"of_{_MANY}_stall_ms": round(stall_of_many, 1),
    }


def _longest(times: Sequence[float]) -> float:
    time.sleep(0.05)  # for the answer that is under way
    return max(times)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def _add_and_try(broker: Broker, names: Sequence[str]) -> None:
    """Add the devices, and wait until the last is let in: that is when the change has come into force."""
    broker.add(names)
    deadline = time.monotonic() + 30
    while True:
        try:
            _connect_raw(broker.port, names[-1]).close()
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


@contextmanager
def _stopwatch(broker: Broker) -> Iterator[list[float]]:
    """The times in milliseconds that the broker takes to answer another session's ping, one after the other."""
    times, stop = [0.0], threading.Event()
    name = (broker.directory / "names").read_text().split()[-1]
    connection = _connect_raw(broker.port, name)

    def ping() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            connection.sendall(b"\xc0\x00")
            connection.recv(2, socket.MSG_WAITALL)
            times.append(1000 * (time.perf_counter() - began))
            time.sleep(0.001)

    thread = threading.Thread(target=ping)
    thread.start()
    yield times
    stop.set()
    thread.join()
    connection.close()


def _connect_raw(port: int, name: str) -> socket.socket:
    """A session by hand: hundreds of them cost nothing. Raises ConnectionError where it is refused."""

    def text(value: str) -> bytes:
        return len(value).to_bytes(2, "big") + value.encode()

    body = text("MQTT") + b"\x04\xc2\x03\xe8" + text(name) + text(name) + text(PASSWORD)
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(b"\x10" + bytes([len(body) % 128 + 128, len(body) // 128]) + body)
    if connection.recv(4, socket.MSG_WAITALL)[3:] != b"\0":
        connection.close()
        raise ConnectionRefusedError(name)
    return connection


def _is_open(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"\xc0\x00")
        return connection.recv(2, socket.MSG_WAITALL) == b"\xd0\x00"
    except OSError:
        return False
    finally:
        connection.close()


# --- Refused topics -----------------------------------------------------------------------------------------


def _refusals(broker: Broker) -> dict[str, Any]:
    own, other, sender = (broker.directory / "names").read_text().split()[:3]
    device = _client(broker.port, own, own)
    platform = _client(broker.platform_port, "gwanje-platform", "listener")
    asked = {
        "everything": "#",
        "others_telemetry": f"telemetry/+/{other}/#",
        "others_commands": f"command/+/{other}/request",
        "a_listeners_group": "$share/ingest/telemetry/#",
    }
    _subscribe(platform, "$share/ingest/telemetry/#")
    refused: dict[str, Any] = {what: not _subscribe(device, pattern) for what, pattern in asked.items()}
    arrived: list[bytes] = []
    platform.on_message = lambda _c, _u, message: arrived.append(bytes(message.payload))
    third = _client(broker.port, sender, sender)
    for number in range(100):
        third.publish(f"telemetry/x/{sender}/dht22", str(number), qos=1).wait_for_publish(5)
    time.sleep(0.5)
    refused["of_100_messages_the_listener_gets"] = len(arrived)
    for client in (device, platform, third):
        client.disconnect()
        client.loop_stop()
    return refused


def _client(port: int, name: str, client_id: str) -> mqtt.Client:
    connected = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
    client.username_pw_set(name, PASSWORD)
    client.on_connect = lambda _c, _u, _f, reason, _p: None if reason.is_failure else connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    if not connected.wait(5):
        raise ConnectionRefusedError(name)
    return client


def _subscribe(client: mqtt.Client, pattern: str) -> bool:
    answered: list[bool] = []
    done = threading.Event()

    def on_subscribe(_client: Any, _userdata: Any, _mid: Any, codes: Any, _properties: Any) -> None:
        answered.append(not codes[0].is_failure)
        done.set()

    client.on_subscribe = on_subscribe
    client.subscribe(pattern, qos=1)
    done.wait(5)
    return answered[0]
