"""A load at a fixed rate, as bridges send it, with its ledger; unacknowledged messages are sent again.

One thread serves all connections, so that a PUBACK is noted where the message was sent. The connections' sessions
are persistent, and each device's messages go over one of them, in order.
"""

import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from .fleet import Fleet, Sender
from .ledger import Entry, Ledger

_RECONNECT_SECONDS = 0.5
_INFLIGHT = 1000
_TURN_SECONDS = 0.005
# After a busy moment of the machine so much is made up for; what is older is left out, so that no burst follows.
_CATCH_UP_SECONDS = 1.0


class Bridge:
    """One connection that publishes and maps each PUBACK to its message. Not shared between threads."""

    def __init__(self, client_id: str, url: str = "") -> None:
        self._url = urlsplit(url or os.environ["MQTT_BRIDGE_URL"])
        self.unacknowledged: dict[int, Entry] = {}
        self._again_at = 0.0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
        self._client.username_pw_set(unquote(self._url.username or ""), unquote(self._url.password or ""))
        self._client.max_inflight_messages_set(_INFLIGHT)
        self._client.on_publish = self._on_publish
        self._client.connect_async(self._url.hostname or "localhost", self._url.port or 1883, keepalive=120)

    def fileno(self) -> int:
        sock = self._client.socket()
        return sock.fileno() if sock is not None else -1

    def wants_write(self) -> bool:
        return bool(self._client.want_write())

    def publish(self, entry: Entry) -> None:
        self.unacknowledged[self._client.publish(entry.topic, entry.payload, qos=1).mid] = entry

    def read(self) -> None:
        self._client.loop_read()

    def write(self) -> None:
        self._client.loop_write()

    def keep(self) -> None:
        """Connect where there is no connection, at most twice a second."""
        self._client.loop_misc()
        now = time.monotonic()
        if self._client.socket() is None and now >= self._again_at:
            self._again_at = now + _RECONNECT_SECONDS
            try:
                self._client.reconnect()
            except OSError:
                return

    def leave(self) -> None:
        """Disconnect, and have the broker forget the session."""
        self._client.disconnect()
        while self.wants_write() and self._client.socket() is not None:
            self.write()

    def _on_publish(self, _client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        entry = self.unacknowledged.pop(mid, None)
        if entry is not None and entry.acked_at is None:
            entry.acked_at = time.time()


Traffic = Callable[[Sender], Iterable[Entry]]


def plain(sender: Sender) -> Iterable[Entry]:
    """Return a device's next message, once."""
    return (sender.next(),)


class Load:
    """`rate` messages a second over the senders in turn, from `with` until its end; `traffic` makes them."""

    def __init__(
        self,
        fleet: Fleet,
        rate: float,
        *,
        senders: list[Sender] | None = None,
        traffic: Traffic = plain,
        message_ledger: Ledger | None = None,
        connections: int = 4,
    ) -> None:
        self.message_ledger = message_ledger or Ledger()
        self.rate = rate
        self._senders = senders or fleet.senders
        self._traffic = traffic
        self._bridges = [Bridge(f"fault-load-{os.getpid()}-{id(self)}-{n}") for n in range(connections)]
        self._injected: deque[Entry] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.paused = threading.Event()
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, patience: float = 45.0) -> None:
        """Send nothing new, wait until all is acknowledged, and disconnect. Raises AssertionError."""
        self._stop.set()
        self._patience = time.monotonic() + patience
        self._thread.join()
        if self.error is not None:
            raise self.error
        left = sum(len(bridge.unacknowledged) for bridge in self._bridges)
        if left:
            raise AssertionError(f"The broker has not acknowledged {left} messages within {patience:.0f} s.")

    def inject(self, entry: Entry) -> Entry:
        """Send this message too, with the next turn."""
        self._injected.append(entry)
        return entry

    def _run(self) -> None:
        try:
            self._publish_until_stopped()
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits for this one
            self.error = error

    def _publish_until_stopped(self) -> None:
        turn = itertools.cycle(self._senders)
        due, before = 0.0, time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            due = min(due + (now - before) * self.rate, _CATCH_UP_SECONDS * self.rate)
            before = now
            if self.paused.is_set():
                due = 0.0
            while due >= 1:
                entries = list(self._traffic(next(turn)))
                for entry in entries:
                    self._send(entry)
                due -= max(1, len(entries))
            while self._injected:
                self._send(self._injected.popleft())
            self._turn(_TURN_SECONDS)
        while any(bridge.unacknowledged for bridge in self._bridges) and time.monotonic() < self._patience:
            self._turn(0.05)
        for bridge in self._bridges:
            bridge.leave()

    def _send(self, entry: Entry) -> None:
        self.message_ledger.add(entry)
        self._bridges[entry.device_id % len(self._bridges)].publish(entry)

    def _turn(self, timeout: float) -> None:
        for bridge in self._bridges:
            bridge.keep()
        alive = [bridge for bridge in self._bridges if bridge.fileno() >= 0]
        writing = [bridge for bridge in alive if bridge.wants_write()]
        if not alive:
            time.sleep(timeout)
            return
        readable, writable, _ = select.select(alive, writing, [], timeout)
        for bridge in readable:
            bridge.read()
        for bridge in writable:
            if bridge.fileno() >= 0:
                bridge.write()
