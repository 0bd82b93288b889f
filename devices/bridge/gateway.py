"""The gateway as a device of the platform: its children's measurements, signed with its key, on disk before all else.

Nothing that was taken is lost: a full spool rejects measurements, with a line in the log, and drops none.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gwanje_device import GwanjeDevice, finite

from .dialects import DialectReport

logger = logging.getLogger(__name__)

_WARN_EVERY = 60.0
_BIRTH_EVERY = 25.0
_MAX_WAITING = 500


@dataclass(frozen=True)
class GatewayChild:
    """A device of the platform that the gateway speaks for."""

    uuid: str
    component: str


@dataclass
class Waiting:
    """A publisher that is not registered: what it has sent so far, together."""

    report: DialectReport
    count: int = 0
    values: dict[str, Any] = field(default_factory=dict)

    def add(self, report: DialectReport) -> None:
        """Add the values of a message to those before."""
        self.count += 1
        self.values |= report.values
        self.report = DialectReport(report.dialect, report.publisher, dict(self.values), units=report.units)


class Gateway(GwanjeDevice):
    """A device that sends for its children too. `children` are by the name of their publisher."""

    def __init__(self, *arguments: Any, clock: Callable[[], float] = time.time, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.clock = clock
        self.children: dict[str, GatewayChild] = {}
        self.waiting: dict[str, Waiting] = {}
        self.taken = self.not_taken = 0
        self._numbers: dict[str, int] = {}
        self._warned_at = -_WARN_EVERY
        self._birth_at = 0.0

    def turn(self, readable: bool = False) -> None:
        """Do the due work of a link, and repeat the birth: with silent children the gateway would time out."""
        super().turn(readable)
        if self.connected and self._farewell is None and time.monotonic() >= self._birth_at:
            self._birth_at = time.monotonic() + _BIRTH_EVERY
            self.publish_now(*self.birth())

    @property
    def is_full(self) -> bool:
        """Return whether the spool has no room for another message."""
        return len(self.outbox) >= self.outbox.limit

    def take(self, report: DialectReport) -> bool:
        """Take a measurement of a child into the spool; return whether it is on disk. Others wait to be registered."""
        child = self.children.get(report.name)
        if child is None:
            self._wait(report)
            return False
        if self.is_full:
            self.not_taken += 1
            if time.monotonic() - self._warned_at >= _WARN_EVERY:
                self._warned_at = time.monotonic()
                logger.error(
                    "The spool is full (%d messages): %d measurements were not taken so far. Connect the gateway to"
                    " the platform, or give it a larger buffer_limit.",
                    len(self.outbox),
                    self.not_taken,
                )
            return False
        self.send_for(child, {"value": report.values}, self.clock() if report.time is None else report.time)
        self.taken += 1
        return True

    def send_for(self, child: GatewayChild, values: dict[str, Any], at: float) -> None:
        """Sign a measurement of a child and store it. ValueError when it cannot be sent, sqlite3.Error: a full disk."""
        with self._lock:
            number = self._numbers.get(child.uuid, 0) + 1
            message = {
                "timestamp": datetime.fromtimestamp(at, UTC).isoformat(),
                "gateway": self.uuid,
                "device_uuid": child.uuid,
                "component": child.component,
                "boot": self.boot,
                "seq": number,
                **finite(values),
            }
            self.outbox.put(f"telemetry/{self.tenant}/{self.uuid}/{child.uuid}/{child.component}", self.encode(message))
            self._numbers[child.uuid] = number  # after it is stored: a number that was never sent looks like a loss
        self._wake()

    def _wait(self, report: DialectReport) -> None:
        waiting = self.waiting.get(report.name)
        if waiting is None:
            if len(self.waiting) >= _MAX_WAITING:
                return
            logger.info("%s is not registered yet: it waits", report.name)
            waiting = self.waiting[report.name] = Waiting(report)
        waiting.add(report)
