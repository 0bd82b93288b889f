"""Device specifications: a frozen snapshot of what is registered, which the ingest stages judge messages by. Pure."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from devices.services import paths


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One value to look for in a component's message. kept = sent × factor + offset, in `unit`."""

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


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """A component of the device; `allowed` says whether the hardware model may carry its type."""

    key: str
    type_key: str
    attached: bool
    allowed: bool
    metrics: tuple[MetricSpec, ...]


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
    """A device as registered. `keys` are newest first and hold neither revoked keys nor any secret."""

    tenant: TenantSpec
    device_id: int
    uuid: UUID
    active: bool
    cpu_serial: str
    hardware_version: str
    signature_floor: int
    components: dict[str, ComponentSpec]
    type_keys: frozenset[str]
    keys: tuple[KeySpec, ...]
    timeout_seconds: float
