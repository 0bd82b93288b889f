"""A fleet of simulated devices in one thread: measurement times, faults, counts."""

import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from management.device_client.gwanje_device import GwanjeDevice, KeyKeeper, Link

from .bridge import BridgeLink
from .driver import Driver
from .faults import FAULTS, Packet, choose_fault, good
from .inventory import DeviceEntry, Inventory, InventoryUnusable, remember_key
from .sensors import measure

REPORT_EVERY = 10.0  # seconds
DRAIN = 3.0  # seconds to wait for acknowledgements at the end
FAREWELL = 2.0  # seconds to wait for clean disconnects
CATCH_UP = 5.0  # seconds of measurements that are sent after a pause; a sensor stores no more
RECONNECT_DELAY = (0.5, 10.0)  # seconds
BUFFER_LIMIT = 10_000  # messages per device, in memory


@dataclass(frozen=True)
class FleetOptions:
    """Options of a fleet.

    `interval`: seconds between two reports of a device, each with one message for every component; `rate`, where
    given, is messages per second over the whole fleet instead. The run ends after `duration` seconds or after
    `messages` measurements, or when it is stopped.
    """

    interval: float = 5.0
    rate: float | None = None
    signature: str | None = None
    duration: float | None = None
    messages: int | None = None
    faults: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    via_bridge: bool = False


@dataclass(frozen=True)
class Summary:
    """Counts so far, in messages; `sent` includes duplicates and no births."""

    devices: int
    connections: int
    sent: int
    acknowledged: int
    refused: int
    dropped: int
    waiting: int
    faults: dict[str, int]
    seconds: float

    @property
    def rate(self) -> float:
        """Return the messages sent per second."""
        return round(self.sent / self.seconds, 1) if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {**vars(self), "rate": self.rate}


@dataclass(frozen=True)
class Source:
    """One component of one device, and the connection for its messages."""

    device: GwanjeDevice
    component: str
    link: Link


class Fleet:
    """Devices of an inventory; `run()` drives them until they are done or `stop()` is called."""

    def __init__(self, inventory: Inventory, entries: Sequence[DeviceEntry], options: FleetOptions) -> None:
        self.options, self.rng = options, Random(options.seed)
        self.devices = [_make_device(inventory, entry, options.signature) for entry in entries]
        bridge = _make_bridge(inventory, self.devices) if options.via_bridge else None
        self.links: list[Link] = [bridge] if bridge else [*self.devices]
        self.sources = [
            Source(device, component, bridge or device)
            for device, entry in zip(self.devices, entries, strict=True)
            for component in entry.components
        ]
        if not self.sources:
            raise InventoryUnusable("the chosen devices have no components")
        self._faults: Counter[str] = Counter()
        self._measured = self._sent = 0
        self._started = time.monotonic()
        self._stopped = False

    def stop(self) -> None:
        """End the run soon and cleanly; a signal handler can call it."""
        self._stopped = True

    def summary(self) -> Summary:
        """Return the counts so far."""
        return Summary(
            devices=len(self.devices),
            connections=sum(link.connections for link in self.links),
            sent=self._sent,
            acknowledged=sum(link.acknowledged for link in self.links),
            refused=sum(link.refused for link in self.links),
            dropped=sum(link.outbox.dropped for link in self.links),
            waiting=sum(link.pending for link in self.links),
            faults=dict(sorted(self._faults.items())),
            seconds=round(time.monotonic() - self._started, 3),
        )

    def run(self, report: Callable[[Summary], None]) -> Summary:
        """Measure and send until the end, then disconnect cleanly; call `report` every 10 s."""
        self._started = time.monotonic()
        driver = Driver(self.links)
        try:
            self._work(driver, report)
            driver.serve_until(lambda: not any(link.pending for link in self.links), DRAIN)
            return self.summary()
        finally:
            driver.leave(FAREWELL)

    def _work(self, driver: Driver, report: Callable[[Summary], None]) -> None:
        period = len(self.sources) / self.options.rate if self.options.rate else self.options.interval
        order = itertools.count()  # sources have no order
        # spread over the period, so that the load is even from the first second
        due = [
            (self._started + period * index / len(self.sources), next(order), source)
            for index, source in enumerate(self.sources)
        ]
        next_report = self._started + REPORT_EVERY
        while not self._ended(now := time.monotonic()):
            at, _, source = due[0]
            if at <= now:
                self._emit(source)
                heapq.heapreplace(due, (max(at, now - CATCH_UP) + period, next(order), source))
            if now >= next_report:
                next_report = now + REPORT_EVERY
                report(self.summary())
            driver.serve(max(0.0, due[0][0] - now))

    def _ended(self, now: float) -> bool:
        messages, duration = self.options.messages, self.options.duration
        return (
            self._stopped
            or (messages is not None and self._measured >= messages)
            or (duration is not None and now - self._started >= duration)
        )

    def _emit(self, source: Source) -> None:
        """Take one measurement and queue its packets."""
        values = measure(source.component, datetime.now(UTC), self.rng)
        fault = choose_fault(self.options.faults, self.rng)
        if fault == "disconnect" and not source.link.connected:
            fault = None
        packets: list[Packet] = FAULTS[fault](source.device, source.component, values, self.rng) if fault else []
        if packets and fault:
            self._faults[fault] += 1
        for topic, payload in packets or good(source.device, source.component, values):
            source.link.outbox.put(topic, payload)
            self._sent += 1
        self._measured += 1
        source.link.turn()
        if fault == "disconnect":
            source.link.drop()


def _make_device(inventory: Inventory, entry: DeviceEntry, signature: str | None) -> GwanjeDevice:
    return GwanjeDevice(
        entry.uuid,
        entry.secret,
        inventory.host,
        inventory.port,
        entry.tenant,
        entry.mqtt_password,
        signature=signature or entry.signature,
        kid=entry.kid,
        cpu_serial=entry.cpu_serial,
        hardware_version=entry.hardware_version,
        firmware_version="simulator",
        buffer_limit=BUFFER_LIMIT,
        on_key=_keeper(inventory, entry),
        reconnect_delay=RECONNECT_DELAY,
    )


def _keeper(inventory: Inventory, entry: DeviceEntry) -> KeyKeeper | None:
    """Return a function that stores a new key in the file that the device came from."""
    path = inventory.path
    return None if path is None else lambda kid, secret: remember_key(path, entry.uuid, kid, secret)


def _make_bridge(inventory: Inventory, devices: Sequence[GwanjeDevice]) -> BridgeLink:
    if inventory.bridge is None:
        raise InventoryUnusable("the file names no bridge account to send through")
    username, password = inventory.bridge
    return BridgeLink(username, password, inventory.host, inventory.port, devices, RECONNECT_DELAY)
