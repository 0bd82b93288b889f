"""Device specifications: a frozen snapshot of what is registered, which the ingest stages judge messages by. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from devices.services import paths
from devices.services.layout import Layout, lay_out

# What becomes of values that no metric is for: see `devices.models.ComponentType.Unmapped`.
IGNORE, KEEP, QUARANTINE = "ignore", "keep", "quarantine"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One value to look for in a component's message. kept = sent × factor + offset, in `unit`.

    Where the message names the unit at `unit_path`, the factor and offset are those of `conversions`, which holds
    (name of a unit, factor, offset).
    """

    key: str
    path: paths.Path
    value_type: str
    unit: str
    factor: float = 1.0
    offset: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    true_value: str = ""
    false_value: str = ""
    unit_path: paths.Path = ()
    conversions: tuple[tuple[str, float, float], ...] = ()
    by_unit: Mapping[str, tuple[float, float]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        by_unit = {name: (factor, offset) for name, factor, offset in self.conversions}
        object.__setattr__(self, "by_unit", by_unit)  # frozen, and this is the way to fill a field of it


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
        object.__setattr__(self, "layout", lay_out(self.metrics))


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
    (`devices.services.spec_loader`), `components` with it, so nothing in it may be changed.
    """

    tenant: TenantSpec
    device_id: int
    number: int  # the UUID's: a UUID of its own for each device would be large
    active: bool
    cpu_serial: str
    hardware_version: str
    signature_floor: int
    components: dict[str, ComponentSpec]
    type_keys: frozenset[str]
    keys: tuple[KeySpec, ...]
    timeout_seconds: float
    key_in_use: int = 0  # the version that the device is known to sign with; 0: none yet

    @property
    def uuid(self) -> UUID:
        """The device's UUID, made anew: where a message is at hand, its topic has it."""
        return UUID(int=self.number)
