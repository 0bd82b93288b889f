"""What the broker acknowledged is stored exactly once, whatever is killed meanwhile.

The ledger: a message enters it when its PUBACK came; afterwards it must be in PostgreSQL, once. The negative
controls run the same fault with one ingredient left out, and must lose messages, so that we know that the
count can fail.
"""

import base64
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from tests import wire
from tests.conftest import Process, Registered, wait_until
from tests.mqtt import RawClient

RATE = 200


class Load:
    """Publishes at `RATE` messages a second as a bridge does, for all devices in turn, and keeps the ledger."""

    def __init__(self, devices: list[Registered]) -> None:
        self._devices = devices
        self._client = RawClient.of_url("MQTT_BRIDGE_URL", clean=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent: dict[int, int] = {}  # message id of the n-th message, by n

    def __enter__(self) -> "Load":
        self._client.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        # The broker may have been away: what was sent is acknowledged, or sent again, after a reconnect.
        wait_until(lambda: len(self.acknowledged()) == len(self.sent), 20, lambda: "the broker acknowledges no more")
        self._client.__exit__()

    def acknowledged(self) -> set[int]:
        return {number for number, mid in self.sent.items() if mid in self._client.acknowledged}

    def _run(self) -> None:
        began, number = time.monotonic(), 0
        while not self._stop.is_set():
            device = self._devices[number % len(self._devices)]
            value = {"temp": 20 + number % 10, "n": number}
            payload = wire.v2(device, value, seq=number) if number % 2 else wire.v1(device, value)
            self.sent[number] = self._client.publish(wire.topic(device), payload)
            number += 1
            time.sleep(max(0.0, began + number / RATE - time.monotonic()))


def stored(devices: list[Registered]) -> Counter[int]:
    """How often each numbered message is in the archive, and that each has its reading, once."""
    from telemetry.models import Message, Reading

    found: Counter[int] = Counter()
    connection.close()  # the server behind it was killed
    with schema_context(devices[0].tenant.schema_name), transaction.atomic():
        # One snapshot for both counts: messages still arrive.
        connection.cursor().execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        ids = [device.device.pk for device in devices]
        for payload in Message.objects.filter(device__in=ids).values_list("payload", flat=True):
            raw = bytes(payload)
            if not raw.startswith(b"{"):
                part = raw.split(b".")[1]
                raw = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
            found[json.loads(raw)["value"]["n"]] += 1
        assert Reading.objects.filter(series__device__in=ids).count() == found.total()
    return found


def compare(load: Load, devices: list[Registered]) -> dict[str, int]:
    """Lost, doubled and phantom messages, once the count no longer changes."""
    acknowledged = load.acknowledged()
    deadline = time.monotonic() + 30
    while acknowledged - (found := stored(devices)).keys() and time.monotonic() < deadline:
        before = found.total()
        time.sleep(2)
        if stored(devices).total() == before:
            break
    return {
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged - found.keys()),
        "doubled": found.total() - len(found),
        "phantom": len(found.keys() - load.sent.keys()),
    }


@pytest.fixture
def fleet(register: Any) -> list[Registered]:
    """Even numbers are sent by the first and third in version 1, odd ones by the others in version 2."""
    return [register() for _ in range(4)]


@pytest.fixture
def listen(start: Callable[..., Process]) -> Iterator[Callable[..., Process]]:
    def make(*options: str) -> Process:
        process = start("manage.py", "run_mqtt_listener", "--client-id", "listener-under-test", *options)
        process.wait_for("Connected to the broker")
        return process

    yield make
    # The session that the listener leaves at the broker would collect every later test's messages.
    with RawClient.of_url("MQTT_URL", client_id="listener-under-test", clean=True):
        pass


def test_every_acknowledged_message_is_stored_exactly_once(
    fleet: list[Registered], listen: Callable[..., Process], stack: EmbeddedStack
) -> None:
    listener = listen()
    with Load(fleet) as load:
        time.sleep(1.5)

        listener.signal(signal.SIGKILL)
        time.sleep(0.7)
        listener = listen()
        time.sleep(1)

        stack.kill("postgres")
        time.sleep(2.5)

        listener.signal(signal.SIGSTOP)
        time.sleep(3)
        listener.signal(signal.SIGCONT)
        time.sleep(1)

        stack.restart("mosquitto")
        stack.wait_ready("mosquitto", 15)
        time.sleep(2)

        stack.kill("valkey")
        time.sleep(2)

        stack.stop_server("postgres")
        time.sleep(1.5)
        listener.signal(signal.SIGKILL)
        stack.start_server("postgres")
        stack.wait_ready("postgres", 15)
        listener = listen()
        time.sleep(1)
    result = compare(load, fleet)
    assert result["acknowledged"] > 15 * RATE * 0.7, f"the load was too small to show anything: {result}"
    assert {**result, "acknowledged": 0} == {"acknowledged": 0, "lost": 0, "doubled": 0, "phantom": 0}, (
        f"{result}\n{listener.log.read_text()[-3000:]}"
    )
    assert listener.stop() == 0, "SIGTERM ends the listener cleanly"


@pytest.mark.parametrize(
    ("option", "loses"),
    [("", False), ("--without-manual-ack", True), ("--without-session", True)],
    ids=["as it is", "automatic acknowledgement", "a session that is not persistent"],
)
def test_the_count_can_fail(
    fleet: list[Registered], listen: Callable[..., Process], stack: EmbeddedStack, option: str, loses: bool
) -> None:
    """The database away, then the listener killed: what it had read and not stored must come again."""
    options = [option] if option else []
    listener = listen(*options)
    with Load(fleet) as load:
        time.sleep(1)
        stack.stop_server("postgres")
        time.sleep(1.5)
        listener.signal(signal.SIGKILL)
        stack.start_server("postgres")
        stack.wait_ready("postgres", 15)
        listen(*options)
        time.sleep(1)
    result = compare(load, fleet)
    assert (result["lost"] > 0) is loses, result
    assert (result["doubled"], result["phantom"]) == (0, 0)
