"""A batch on its way through ingest, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from telemetry.services.pipeline.results import Incoming, Judged, Outcome, RefusedItem
from telemetry.services.storage.tenant_writer import Packed


@dataclass(slots=True)
class Batch:
    """Judged messages, by tenant, on their way into PostgreSQL."""

    told: list[Incoming] = field(default_factory=list)  # hints, of which nothing is stored
    groups: dict[str, list[Judged]] = field(default_factory=dict)  # by schema, held to the limits
    unrouted: list[RefusedItem] = field(default_factory=list)
    busy: dict[str, list[Incoming]] = field(default_factory=dict)  # by schema, of tenants whose tables are locked
    # (UUIDs' numbers) devices that it has the first message of version 2 from
    risen: set[int] = field(default_factory=set)
    replayed: bool = False  # as in `Judge.limit`
    packed: Packed | None = None
    error: Exception | None = None  # why it could not be sent


@dataclass(slots=True)
class Settled:
    """What became of a tenant's part of a batch."""

    schema: str
    outcome: Outcome
    items: Sequence[Judged]


@dataclass(slots=True)
class Tally:
    """What became of a batch's messages, over all tenants; `unrouted` belong to none.

    `settled` may be acknowledged; the others are held until their tenant's tables are free. `put_aside` and
    `taken_back`: as in `storage.aside`.
    """

    stored: int = 0
    duplicates: int = 0
    quarantined: int = 0
    limited: int = 0
    unrouted: int = 0
    tenants: int = 0  # how many it was of
    put_aside: int = 0
    taken_back: int = 0
    settled: list[Incoming] = field(default_factory=list)
