"""Data types that the steps of ingest exchange: topics, measurements, refusals, messages, and a tenant's result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import NamedTuple
from uuid import UUID

from devices.domain.specs import DeviceSpec

# Some of these are made for each message. They are not frozen: a frozen dataclass takes three times as long to make.

Value = float | bool | str


class Measurement(NamedTuple):
    """One value of one metric. Numbers are floats in `unit`."""

    metric: str
    value: Value
    unit: str
    value_type: str


class TimedMeasurement(NamedTuple):
    """A measurement with its own time, of a message with a list of entries."""

    metric: str
    value: Value
    unit: str
    value_type: str
    time: datetime


class VerifiedContact(NamedTuple):
    """A verified message that is refused: the device's time (None: unreadable).

    `session` is that of a birth whose clock alone is wrong: it begins all the same.
    """

    time: datetime | None
    session: str | None = None


class RefusedValue(NamedTuple):
    """A value that its metric rejects, in a message of which others are stored; reason and detail as of a Refusal."""

    metric: str
    reason: str
    detail: str


class Refusal(Exception):
    """Why a message is quarantined: `reason` is one of `telemetry.models.Reason`, `detail` describes the correction.

    `limit` is the name of the tenant's limit that the message exceeds, or empty. `contact` is set where the signature
    is valid. `time` is the refused one of an entry or of the message; None where no time is the cause.
    """

    contact: VerifiedContact | None = None
    time: datetime | None = None
    values: tuple[RefusedValue, ...] = ()  # where the message is refused because none of its values is valid

    def __init__(self, reason: str, detail: str, *, limit: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.limit = limit

    def at(self, place: str) -> "Refusal":
        """Return the refusal with the place in the message before its detail."""
        placed = Refusal(self.reason, f"{place}: {self.detail}", limit=self.limit)
        placed.time = self.time
        return placed

    def detached(self) -> "Refusal":
        """Return the refusal without the calls that raised it: they refer to the batch, and thereby to the refusal, so
        that the whole batch would be in memory until the next garbage collection.
        """
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self


def quote(value: object, limit: int = 80) -> str:
    """Return a value from a message for a refusal's detail, printable and cut to `limit` characters."""
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\x00", "\\0")
    return repr(text if len(text) <= limit else text[:limit] + "…")


def quote_json(value: object, limit: int = 80) -> str:
    """Return a value from a message for a refusal's detail, with its type in the words of JSON."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return f"the string {quote(value, limit)}"
    if isinstance(value, float) and math.isinf(value):  # of a text such as 1e400, or a sum
        return "a number beyond the range of 64-bit floats"
    if isinstance(value, int | float):
        text = repr(value)
        return f"the number {text if len(text) <= limit else text[:limit] + '…'}"
    name = "array" if isinstance(value, list) else "object"
    return f"an {name}" if value else f"an empty {name}"


class TopicKind(Enum):
    """The kind of message that a topic carries."""

    TELEMETRY = "telemetry"
    BIRTH = "birth"
    WILL = "will"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic's parts. Only telemetry has `segment` (the tenant's slug or alias) and `component`.

    `uuid` is the publisher's, to which the broker binds the topic: the device itself, or the gateway of the device
    `child`. `device` is the UUID of the device that the message is of, as text, which version 2 messages repeat.
    """

    kind: TopicKind
    uuid: UUID
    segment: str = ""
    component: str = ""
    child: UUID | None = None
    device: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "device", str(self.child or self.uuid)
        )  # the only way to set a field of a frozen dataclass


@dataclass(slots=True)
class Incoming:
    """A message as the broker delivered it; `epoch` names the connection that it must be acknowledged on."""

    topic: str
    payload: bytes
    received_at: datetime
    mid: int = 0
    qos: int = 1
    epoch: int = 0


@dataclass(slots=True)
class ValidatedMessage:
    """A message that passed all checks. `measurements` are empty for births and wills.

    `unmapped` are the values without a metric; storage keeps them up to the component's maximum number of series.
    """

    topic: Topic
    component: str
    time: datetime
    late: bool
    signature: int  # 0: not verified (a will, which cannot be signed in advance, or an old server's record)
    key_version: int
    fingerprint: bytes  # 16 bytes
    measurements: list[Measurement] = field(default_factory=list)
    session: str = ""
    counter: tuple[int, int] | None = None  # (boot, seq)
    unmapped: list[Measurement] = field(default_factory=list)
    cut: bool = False  # the message has more values without a metric than are kept
    refused: Sequence[RefusedValue] = ()
    is_timed: bool = False  # the measurements are timed ones
    omitted: str = ""  # the bound by which values were left out, set when series are admitted


@dataclass(slots=True)
class AcceptedItem:
    """A message that passed all checks and limits, and its device; `gateway`: the device that published it for it.

    `metric`: only this metric's values are replayed, of a message that is stored.
    """

    incoming: Incoming
    spec: DeviceSpec
    result: ValidatedMessage
    gateway: DeviceSpec | None = None
    metric: str = ""


@dataclass(slots=True)
class RefusedItem:
    """A message that is quarantined, and the device that it names (None: not registered).

    `for_staff`: the device's tenant must not see it. `gateway`: as of an accepted message. `metric`: only this metric's
    value is refused, the message is stored.
    """

    incoming: Incoming
    spec: DeviceSpec | None
    result: Refusal
    for_staff: bool = False
    gateway: DeviceSpec | None = None
    metric: str = ""

    @property
    def owner(self) -> DeviceSpec | None:
        """The device whose tenant has the message in its quarantine; None: staff have it."""
        return None if self.for_staff else self.spec


@dataclass(slots=True)
class LimitedItem:
    """A message that exceeds a rate: it is counted under the limit's name, not stored.

    `device_id` is set where the limit is the device's own. `result` is None where the device is braked: its messages
    are not validated, and the item stands for `count` of them. `retry_after` is in seconds.
    """

    incoming: Incoming
    spec: DeviceSpec
    result: ValidatedMessage | None
    limit: str
    device_id: int | None
    count: int = 1
    retry_after: float = 0.0


MessageResult = AcceptedItem | RefusedItem | LimitedItem

# A reading: its series, its time in `statements.micros`, and a number (booleans are 0 and 1) or a text.
ReadingRow = tuple[int, int, float | str]


@dataclass(slots=True)
class TenantResult:
    """The result of a tenant's messages of a batch; `readings` are those of the stored messages.

    `items` are all of the messages. `refused_values` are those of stored messages; of `replayed_values` only a metric's
    values are stored now, the messages were before. `schema` is empty for messages that belong to no tenant.
    """

    schema: str
    items: Sequence[MessageResult] = ()
    stored: list[AcceptedItem] = field(default_factory=list)
    duplicates: list[AcceptedItem] = field(default_factory=list)
    quarantined: list[RefusedItem] = field(default_factory=list)
    refused_values: list[RefusedItem] = field(default_factory=list)
    replayed_values: list[AcceptedItem] = field(default_factory=list)
    limited: list[LimitedItem] = field(default_factory=list)
    readings: list[ReadingRow] = field(default_factory=list)
