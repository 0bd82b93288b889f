"""A batch on its way through ingest, and its result."""

from dataclasses import dataclass, field

from telemetry.services.pipeline.results import Incoming, LimitedItem, MessageResult, RefusedItem
from telemetry.services.storage.tenant_writer import PackedBatch

from .braked_counts import BrakedCounts


@dataclass(slots=True)
class LockedMessage:
    """A message that cannot be validated yet: its tenant's tables are locked or faulty."""

    incoming: Incoming
    schema: str


@dataclass(slots=True)
class PreparedBatch:
    """Validated messages by tenant, on their way into PostgreSQL."""

    internal: list[Incoming] = field(default_factory=list)  # of the broker and the platform: not stored
    groups: dict[str, list[MessageResult]] = field(default_factory=dict)  # by schema, after the limits
    unrouted: list[RefusedItem] = field(default_factory=list)
    locked: dict[str, list[Incoming]] = field(default_factory=dict)  # by schema, of blocked tenants
    # The devices (their UUIDs' numbers) whose first message of version 2 is in the batch.
    upgraded_devices: set[int] = field(default_factory=set)
    # Of braked messages: those of tenants that are not blocked are in `groups` too.
    counts: BrakedCounts = field(default_factory=BrakedCounts)
    waiting_counts: list[LimitedItem] = field(default_factory=list)  # of blocked tenants
    unrouted_limited: int = 0  # braked messages of unregistered publishers whose count is stored
    replayed: bool = False  # as in `BatchPreparer.apply_limits`
    # The ids (`mid`) of messages that came before, which are charged to no limit. Empty for messages over MQTT.
    repeated: set[int] = field(default_factory=set)
    packed: PackedBatch | None = None
    error: Exception | None = None  # the reason why it could not be sent


@dataclass(slots=True)
class BatchResult:
    """The result of a batch's messages over all tenants; `unrouted` belong to none, and `unrouted_limited` are those of
    them that were only counted.

    `to_acknowledge` are safe; the others wait until their tenant's tables are free. `spilled` and `restored` count
    messages into and out of the overflow. `probes` are the payloads of the listener's own messages. `counts` are those
    of braked messages, which are safe too.
    """

    stored: int = 0
    duplicates: int = 0
    quarantined: int = 0
    limited: int = 0
    unrouted: int = 0
    unrouted_limited: int = 0
    tenants: int = 0
    spilled: int = 0
    restored: int = 0
    to_acknowledge: list[Incoming] = field(default_factory=list)
    counts: BrakedCounts = field(default_factory=BrakedCounts)
    probes: list[bytes] = field(default_factory=list)
