"""A load: messages signed as devices sign them, packed for the publisher, and what must become of them."""

import json
import random
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from management.device_client.gwanje_device import sign_v1, sign_v2

from . import packets
from .fleet import COMPONENT, METRICS, Fleet, Sender

# Device times lie this far apart, so that no two messages of a run have the same; in seconds. Not further than messages
# can be sent, or those of a long run would get ahead of the clock, and be refused for it.
_STEP = 0.00004
# The load ends about now, and may reach so far back, well within what counts as live.
_LONGEST_PAST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A message whose rows are compared with what was sent; the `number`-th of its load."""

    number: int
    sender: Sender
    time: datetime
    payload: bytes
    values: dict[str, float]

    @property
    def readings(self) -> dict[str, tuple[float, str]]:
        """Metric → (value, unit) that must be stored of it."""
        return {metric: (self.values[member], unit) for metric, member, unit in METRICS}


@dataclass(slots=True)
class Load:
    """Packets on disk, and how many messages they are, by schema, in the order of sending."""

    data: Path
    ends: Path
    messages: int
    by_schema: Counter[str]
    samples: list[Sample]


class LoadMaker:
    """Makes loads for one run. Device times only go forward, so that no message is a repetition."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._random = random.Random(20261)
        self._made = 0
        self._last = 0.0

    def make(self, fleet: Fleet, messages: int, *, samples: int) -> Load:
        """So many messages, in turn of all devices in an order of its own, three values each."""
        order = self._order(fleet)
        every = max(1, messages // max(1, samples))
        data, ends, chosen = bytearray(), array("Q"), []
        began = max(time.time() - min(messages * _STEP, _LONGEST_PAST_SECONDS), self._last + _STEP)
        step = min(_STEP, _LONGEST_PAST_SECONDS / messages)
        for number in range(messages):
            sender = order[number % len(order)]
            moment = datetime.fromtimestamp(began + number * step, UTC)
            values = self._values()
            payload = encode(sender, moment, values)
            data += packets.publish(sender.topic.encode(), number % packets.PACKET_IDS + 1, payload)
            ends.append(len(data))
            if number % every == every - 1:
                chosen.append(Sample(number, sender, moment, payload, values))
        self._last = began + messages * step
        counts = Counter(order[number % len(order)].schema for number in range(messages))
        fleet.sent += counts
        return self._write(bytes(data), ends, counts, chosen)

    def _order(self, fleet: Fleet) -> list[Sender]:
        """All devices, shuffled: two listeners that take turns get others in every load. Tenants take turns."""
        tenants: dict[str, list[Sender]] = {}
        for sender in self._random.sample(fleet.senders, len(fleet.senders)):
            tenants.setdefault(sender.schema, []).append(sender)
        longest = max(map(len, tenants.values()))
        return [owned[turn] for turn in range(longest) for owned in tenants.values() if turn < len(owned)]

    def _values(self) -> dict[str, float]:
        number = self._random.random
        return {
            "temp": round(15 + 15 * number(), 2),
            "humidity": round(30 + 40 * number(), 2),
            "pressure": round(980 + 60 * number(), 2),
        }

    def _write(self, data: bytes, ends: "array[int]", counts: Counter[str], samples: Sequence[Sample]) -> Load:
        # Two generations: one is sent while the next is made.
        self._made += 1
        stem = self._directory / f"load-{self._made % 2}"
        stem.with_suffix(".packets").write_bytes(data)
        stem.with_suffix(".ends").write_bytes(ends.tobytes())
        return Load(stem.with_suffix(".packets"), stem.with_suffix(".ends"), len(ends), counts, list(samples))


def encode(sender: Sender, moment: datetime, values: dict[str, float]) -> bytes:
    """The message as the device sends it, in its version."""
    message: dict[str, Any] = {"timestamp": moment.isoformat(), "cpu_serial": sender.serial, "value": values}
    if sender.signature == 1:
        return json.dumps(sign_v1(message, sender.secret)).encode()
    sender.seq += 1
    message |= {"device_uuid": sender.uuid, "component": COMPONENT, "boot": 1, "seq": sender.seq}
    return sign_v2(message, sender.secret, str(sender.key_version)).encode()
