"""Device specifications: frozen snapshots of registered devices, by which the pipeline validates messages. Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from devices.domain.entry_lists import EntryList
from devices.domain.layout import Layout, build_layout
from devices.domain.metric_spec import MetricSpec

# The treatment of unmapped values: see `devices.models.ComponentType.Unmapped`.
IGNORE, KEEP, QUARANTINE = "ignore", "keep", "quarantine"


# The treatment of invalid values: see `devices.models.ComponentType.InvalidValues`.
REFUSE_MESSAGE, REFUSE_VALUE = "refuse_message", "refuse_value"


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """A component of the device; `allowed` says whether the hardware model may have its type.

    `unmapped` is the treatment of unmapped values, `invalid_values` that of values which a metric rejects and
    `entries` where messages have a list of entries, or their time.
    Devices with equal components share the object.
    """

    key: str
    type_key: str
    attached: bool
    allowed: bool
    metrics: tuple[MetricSpec, ...]
    unmapped: str = KEEP
    invalid_values: str = REFUSE_MESSAGE
    entries: EntryList | None = None
    layout: Layout = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", build_layout(self.metrics, self.entries.covered if self.entries else ()))


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A key that the device may sign with, until `not_after` (None: without end)."""

    version: int
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class RateSpec:
    """A rate in messages per second, and the burst after a pause."""

    rate: float
    burst: float


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """The limits of a tenant and each of its devices; None is unlimited. `backfill` is for late messages."""

    tenant: RateSpec | None = None
    device: RateSpec | None = None
    tenant_backfill: RateSpec | None = None
    device_backfill: RateSpec | None = None
    daily_quota: int | None = None
    max_payload: int | None = None


@dataclass(frozen=True, slots=True)
class TenantSpec:
    """The tenant of a device: its schema, and the topic segments that name it (slug and aliases).

    `limits` is one object for all of the tenant's devices, None without limits.
    """

    schema: str
    slug: str
    segments: frozenset[str]
    active: bool
    limits: LimitSpec | None = None


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A registered device. `keys` are newest first, without revoked keys and without secrets.

    The listener has one per device in memory: equal parts are shared objects (`devices.services.specs.loader`),
    `components` included, so nothing in it may be changed.
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
    text_wills: bool = False  # whether a fixed text, or an empty message, is a will
    gateway: int = 0  # the number of its gateway's UUID; 0: it has none

    @property
    def uuid(self) -> UUID:
        """Return the device's UUID, created anew: prefer the UUID of the message's topic."""
        return UUID(int=self.number)
