"""A Mosquitto of the test's own, and a listener that hears everything on it."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from management.embedded.mosquitto_package import Mosquitto, find_installed, find_unpacked
from tests.processes import free_port, wait_until

PR_SET_PDEATHSIG = 1  # prctl(2)


def find_mosquitto() -> Mosquitto:
    """Return the broker of this machine, or the one that the run's own servers have unpacked.

    Fails the test where there is none, as there is no test without it.
    """
    var = Path(os.environ.get("GWANJE_VAR", "var"))
    unpacked = (find_unpacked(directory) for directory in var.glob("*/dist"))
    found = find_installed() or next((package for package in unpacked if package), None)
    if found is None:
        pytest.fail("mosquitto is not on the PATH: install it (apt-get install mosquitto) and run again")
    return found


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Broker:
    """A Mosquitto with persistence on a free port: `start()`, `stop()` (SIGTERM, which saves), and start again."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self.log = directory / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {directory}/",
            "max_queued_messages 0",
            f"log_dest file {self.log}",
            "connection_messages true",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # or it could not write into the test's directory
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> "Broker":
        package = find_mosquitto()
        command = [str(package.program), "-c", str(self.directory / "mosquitto.conf")]
        self._process = subprocess.Popen(command, env={**os.environ, **package.env}, preexec_fn=_end_with_parent)
        wait_until(self._answers, 60, f"Mosquitto does not listen on port {self.port}")
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"mosquitto ended: {self.log.read_text()[-500:]}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish one message as another client, and wait for the acknowledgement."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        client.publish(topic, payload, qos=1).wait_for_publish(60)
        client.disconnect()
        client.loop_stop()


class Heard(NamedTuple):
    """One message as it arrived."""

    topic: str
    payload: bytes

    def json(self) -> Any:
        return json.loads(self.payload)


class Listener:
    """Hears every message, in a session that survives the restart of the broker."""

    def __init__(self, port: int) -> None:
        self.heard: list[Heard] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="test-listener", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self.heard.append(
            Heard(message.topic, bytes(message.payload))
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(60), "the listener could not subscribe"

    def on(self, prefix: str) -> list[Heard]:
        """Return what has been heard on the topics that begin with `prefix`, in order."""
        return [message for message in list(self.heard) if message.topic.startswith(prefix)]

    def wait(self, prefix: str, count: int, seconds: float = 60.0) -> list[Heard]:
        """Wait until at least `count` messages have been heard on `prefix`, and return them all."""
        wait_until(
            lambda: len(self.on(prefix)) >= count,
            seconds,
            lambda: f"{len(self.on(prefix))} of {count} messages on {prefix}",
        )
        return self.on(prefix)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture(name="broker")
def broker_fixture(tmp_path: Path) -> Iterator[Broker]:
    """A running broker that allows every client everything."""
    directory = tmp_path / "broker"
    directory.mkdir()
    server = Broker(directory)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(name="listener")
def listener_fixture(broker: Broker) -> Iterator[Listener]:
    """A client that receives every message of `broker`."""
    ear = Listener(broker.port)
    yield ear
    ear.close()
