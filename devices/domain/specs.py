"""Device specifications: a frozen snapshot of what is registered, which the ingest stages judge messages by. Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from devices.domain.layout import Layout, build_layout
from devices.domain.metric_spec import MetricSpec

# What becomes of values that no metric is for: see `devices.models.ComponentType.Unmapped`.
IGNORE, KEEP, QUARANTINE = "ignore", "keep", "quarantine"


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """A component of the device; `allowed` says whether the hardware model may carry its type.

    `unmapped` is what becomes of values without a metric. Devices whose components are alike share the object.
    """

    key: str
    type_key: str
    attached: bool
    allowed: bool
    metrics: tuple[MetricSpec, ...]
    unmapped: str = KEEP
    layout: Layout = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", build_layout(self.metrics))


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A key that the device may sign with, until `not_after` (None: no end yet)."""

    version: int
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class RateSpec:
    """A rate in messages a second, and how many may come at once after a silence."""

    rate: float
    burst: float


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """What a tenant and each of its devices may send; None is no limit. `backfill` is for late messages."""

    tenant: RateSpec | None = None
    device: RateSpec | None = None
    tenant_backfill: RateSpec | None = None
    device_backfill: RateSpec | None = None
    daily_quota: int | None = None
    max_payload: int | None = None


@dataclass(frozen=True, slots=True)
class TenantSpec:
    """The tenant of a device: its schema, and the topic segments that name it (slug and aliases).

    `limits` is one object for all of the tenant's devices, None where nothing is limited.
    """

    schema: str
    slug: str
    segments: frozenset[str]
    active: bool
    limits: LimitSpec | None = None


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device as registered. `keys` are newest first and hold neither revoked keys nor any secret.

    There is one for each device in the listener's memory: whatever is alike in many is one object in all of them
    (`devices.services.specs.loader`), `components` with it, so nothing in it may be changed.
    """

    tenant: TenantSpec
    device_id: int
    number: int  # the UUID's: a UUID of its own for each device would be large
    active: bool
    cpu_serial: str
    hardware_version: str
    min_signature_version: int
    components: dict[str, ComponentSpec]
    type_keys: frozenset[str]
    keys: tuple[KeySpec, ...]
    timeout_seconds: float
    key_in_use: int = 0  # the version that the device is known to sign with; 0: none yet

    @property
    def uuid(self) -> UUID:
        """The device's UUID, made anew: where a message is at hand, its topic has it."""
        return UUID(int=self.number)
