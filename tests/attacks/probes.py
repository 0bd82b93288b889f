"""Honest users of the platform, whose waiting is measured: a device that publishes, and a program that reads.

Both are open loops: they send at a steady pace, whether or not the answer to the one before has come, so that a
standstill is not measured as one slow request.
"""

import http.client
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import psycopg
from psycopg import sql

from tenants.infrastructure.database import conninfo
from tests.faults.fleet import Sender
from tests.faults.load import Bridge

_POLL_SECONDS = 0.005
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds that a probe's requests took, of those that were answered; `lost` were not, within a minute."""

    seconds: Sequence[float]
    lost: int = 0

    def quantile(self, share: float) -> float:
        """Return the time within which `share` of the requests were answered; a minute where nothing was."""
        ordered = sorted([*self.seconds, *[_PATIENCE_SECONDS] * self.lost])
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else _PATIENCE_SECONDS

    @property
    def p50(self) -> float:
        """The median in seconds."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float:
        """The time in seconds within which 95 % were answered."""
        return self.quantile(0.95)

    @property
    def worst(self) -> float:
        """The longest time in seconds."""
        return self.quantile(1.0)

    def figures(self, name: str) -> dict[str, float]:
        """Return the figures in milliseconds, under names that begin with `name`."""
        times = {"p50": self.p50, "p95": self.p95, "worst": self.worst}
        return {f"{name}_{key}_ms": round(1000 * value, 1) for key, value in times.items()} | {
            f"{name}_lost": self.lost
        }


class Probe(ABC):
    """Sends while its `with` block lasts; `latencies` are known after it, when all were answered or a minute passed."""

    latencies = Latencies(())

    def __init__(self, interval: float = 0.05) -> None:
        """`interval`: seconds from one message or request to the next."""
        self._interval = interval
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * _PATIENCE_SECONDS)
        if self._error is not None:
            raise self._error

    def _guarded(self) -> None:
        try:
            self.latencies = self._run()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for this one
            self._error = error

    @abstractmethod
    def _run(self) -> Latencies:
        """Send until `_stop` is set, and return the latencies."""


class DeviceProbe(Probe):
    """A device that publishes over a bridge: seconds from publishing a message until its row can be read."""

    def __init__(self, sender: Sender, interval: float = 0.05) -> None:
        super().__init__(interval)
        self._sender = sender
        self._statement = sql.SQL("SELECT time FROM {}.telemetry_message WHERE device_id = %s AND time >= %s").format(
            sql.Identifier(sender.schema)
        )

    def _run(self) -> Latencies:
        sent: dict[str, float] = {}
        stored: dict[str, float] = {}
        bridge = Bridge(f"probe-{self._sender.uuid[:8]}-{time.monotonic_ns()}")
        first, due = "", time.monotonic()
        deadline = float("inf")
        with psycopg.connect(conninfo(), autocommit=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            while time.monotonic() < deadline and not (deadline < float("inf") and len(stored) == len(sent)):
                bridge.keep()
                now = time.monotonic()
                if self._stop.is_set():
                    deadline = min(deadline, now + _PATIENCE_SECONDS)
                elif now >= due:
                    entry = self._sender.next()
                    first = first or entry.at
                    sent[entry.at] = now
                    bridge.publish(entry)
                    due = max(due + self._interval, now)
                if bridge.fileno() >= 0:
                    if bridge.wants_write():
                        bridge.write()
                    bridge.read()
                if first and len(stored) < len(sent):
                    rows = connection.execute(self._statement, [self._sender.device_id, first]).fetchall()
                    seen = time.monotonic()
                    for (moment,) in rows:
                        stored.setdefault(moment.isoformat(timespec="microseconds"), seen)
                time.sleep(_POLL_SECONDS)
        bridge.leave()
        return Latencies(
            [stored[at] - sent[at] for at in sent.keys() & stored.keys()], len(sent.keys() - stored.keys())
        )


class ApiProbe(Probe):
    """A program that reads over the API: seconds from a GET request until its answer; other statuses are lost ones."""

    def __init__(
        self, port: int, path: str, key: str, interval: float = 0.1, *, ok: Sequence[int] = (200,), connections: int = 4
    ) -> None:
        """`path` as in `/t/{slug}/api/v1/devices/`; at most `connections` requests wait at a time."""
        super().__init__(interval)
        self._port, self._path, self._ok = port, path, ok
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._connections = connections

    def _run(self) -> Latencies:
        seconds: list[float] = []
        lost: list[int] = []

        def request() -> None:
            while not self._stop.is_set():
                began = time.monotonic()
                status = self.get()
                if status in self._ok:
                    seconds.append(time.monotonic() - began)
                else:
                    lost.append(status)
                self._stop.wait(max(0.0, self._connections * self._interval - (time.monotonic() - began)))

        threads = [threading.Thread(target=request, daemon=True) for _ in range(self._connections)]
        for thread in threads:
            thread.start()
            self._stop.wait(self._interval)
        for thread in threads:
            thread.join(_PATIENCE_SECONDS)
        alive = sum(thread.is_alive() for thread in threads)
        return Latencies(list(seconds), len(lost) + alive)

    def get(self) -> int:
        """Send one request, and return its status; 0 where no answer came."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE_SECONDS)
        try:
            connection.request("GET", self._path, headers=self._headers)
            response = connection.getresponse()
            response.read()
            return response.status
        except OSError:
            return 0
        finally:
            connection.close()
