"""What is stored, and what became of it."""

from dataclasses import dataclass, field
from datetime import datetime

from devices.domain.specs import DeviceSpec

from .processing import Accepted
from .refusal import Refused

# Three of these are made for each message. They are not frozen, because that makes them three times as dear.


@dataclass(slots=True)
class Incoming:
    """A message as the broker delivered it; `epoch` names the connection that it may be acknowledged on."""

    topic: str
    payload: bytes
    received_at: datetime
    mid: int = 0
    qos: int = 1
    epoch: int = 0


@dataclass(slots=True)
class AcceptedItem:
    """A message that is what it claims to be, and its device."""

    incoming: Incoming
    spec: DeviceSpec
    verdict: Accepted


@dataclass(slots=True)
class RefusedItem:
    """A message that was refused, and the device that it names (None: not registered)."""

    incoming: Incoming
    spec: DeviceSpec | None
    verdict: Refused


@dataclass(slots=True)
class LimitedItem:
    """A message that is what it claims to be, and over a rate: it is counted under the limit's name, not stored.

    `device_id` is there where the limit is the device's own.
    """

    incoming: Incoming
    spec: DeviceSpec
    verdict: Accepted
    limit: str
    device_id: int | None


Judged = AcceptedItem | RefusedItem | LimitedItem


# A reading: its series, its time in `binary.micros`, and a number (booleans are 0 and 1) or a text.
ReadingRow = tuple[int, int, float | str]


@dataclass(slots=True)
class Outcome:
    """What became of a tenant's messages of a batch; `readings` are those of what is stored."""

    stored: list[AcceptedItem] = field(default_factory=list)
    duplicates: list[AcceptedItem] = field(default_factory=list)
    quarantined: list[RefusedItem] = field(default_factory=list)
    limited: list[LimitedItem] = field(default_factory=list)
    readings: list[ReadingRow] = field(default_factory=list)
