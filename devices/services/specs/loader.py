"""Loading of device specifications from the tenants' schemas."""

from collections.abc import Collection, Hashable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, TypeVar
from uuid import UUID

from django.db import DatabaseError
from django_tenants.utils import schema_context

from devices.domain import paths
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import ComponentSpec, DeviceSpec, KeySpec, LimitSpec, RateSpec, TenantSpec
from devices.models import (
    Component,
    ComponentType,
    Device,
    DeviceCredential,
    HardwareModel,
    Metric,
    PresenceSettings,
)
from devices.services.presence.timeouts import timeout_of
from tenants.infrastructure.retry import first_line, is_lock_conflict
from tenants.infrastructure.sql_errors import is_of_tenant
from tenants.models import DeviceRoute, Tenant
from tenants.services.limits import Limit, LimitName, limits_of

# By schema, so that all devices of a tenant share one object and a change is recognized by identity.
_limits: dict[str, LimitSpec] = {}

# How many different objects are cached, to be shared by equal devices.
_ALIKE = 8192

Shared = TypeVar("Shared", bound=Hashable)


@lru_cache(maxsize=_ALIKE)
def _shared(one: Shared) -> Shared:
    """Return the equal object that was seen first: devices of a fleet differ in little."""
    return one


@lru_cache(maxsize=_ALIKE)
def _by_key(components: tuple[ComponentSpec, ...]) -> dict[str, ComponentSpec]:
    """Return the components of all devices with equal ones in one shared dict, which must not be changed."""
    return {component.key: component for component in components}


class BlockedTenant(NamedTuple):
    """A tenant whose tables are locked or faulty: `fault` is the error of a faulty schema."""

    schema: str
    fault: str


def load_specs(uuids: Collection[UUID], blocked: dict[UUID, BlockedTenant] | None = None) -> dict[UUID, DeviceSpec]:
    """Return the specifications of the registered devices, of any tenant.

    One query for the routes, and a handful per tenant. Leaves the connection in the public schema. If `blocked` is
    given, devices of a tenant whose tables are locked or faulty are added to it.
    """
    specs: dict[UUID, DeviceSpec] = {}
    with schema_context("public"):
        tenants = _tenants_of(uuids)
    for tenant, owned in tenants:
        try:
            with schema_context(tenant.schema):
                specs |= _load_of_tenant(tenant, owned)
        except DatabaseError as error:
            if blocked is None or not is_of_tenant(error):
                raise
            fault = "" if is_lock_conflict(error) else first_line(error)
            blocked |= dict.fromkeys(owned, BlockedTenant(tenant.schema, fault))
    return specs


def _tenants_of(uuids: Collection[UUID]) -> list[tuple[TenantSpec, list[UUID]]]:
    routes = DeviceRoute.objects.filter(device_uuid__in=uuids).values_list("tenant_id", "device_uuid")
    owned: dict[int, list[UUID]] = {}
    for tenant_id, uuid in routes:
        owned.setdefault(tenant_id, []).append(uuid)
    tenants = Tenant.objects.filter(pk__in=owned).select_related("limits__plan").prefetch_related("aliases")
    return [(tenant_spec(tenant), owned[tenant.pk]) for tenant in tenants]


def tenant_spec(tenant: Tenant) -> TenantSpec:
    """Return the frozen specification of the tenant, with its segments and limits. May query the public schema."""
    spec = TenantSpec(
        schema=tenant.schema_name,
        slug=tenant.slug,
        segments=frozenset([tenant.slug, *(alias.address for alias in tenant.aliases.all())]),
        active=tenant.state == Tenant.State.ACTIVE,
        limits=_limit_spec(tenant),
    )
    return _shared(spec)


def _limit_spec(tenant: Tenant) -> LimitSpec | None:
    found = limits_of(tenant)
    quota, payload = found.get(LimitName.DAILY_QUOTA), found.get(LimitName.MAX_PAYLOAD)
    spec = LimitSpec(
        tenant=_rate_spec(found.get(LimitName.TENANT_RATE)),
        device=_rate_spec(found.get(LimitName.DEVICE_RATE)),
        tenant_backfill=_rate_spec(found.get(LimitName.TENANT_BACKFILL_RATE)),
        device_backfill=_rate_spec(found.get(LimitName.DEVICE_BACKFILL_RATE)),
        daily_quota=int(quota.value) if quota else None,
        # The platform's own limit applies to all tenants, and is not part of the specification.
        max_payload=int(payload.value) if payload and payload.source != "default" else None,
    )
    if spec == LimitSpec():
        _limits.pop(tenant.schema_name, None)
        return None
    known = _limits.get(tenant.schema_name)
    if known != spec:
        known = _limits[tenant.schema_name] = spec
    return known


def _rate_spec(limit: Limit | None) -> RateSpec | None:
    return RateSpec(limit.value, limit.burst or 1.0) if limit else None


def _load_of_tenant(tenant: TenantSpec, uuids: list[UUID]) -> dict[UUID, DeviceSpec]:
    """Load plain rows, not models: a listener reads as many as a fleet has devices, and again as they age."""
    rows = Device.objects.filter(uuid__in=uuids).values_list(
        "id", "uuid", "active", "cpu_serial", "min_signature_version", "timeout_seconds", "hardware_model_id"
    )
    devices = [_DeviceRow(*row) for row in rows.order_by()]
    ids = [device.id for device in devices]
    components, keys = _components_of(ids), _keys_of(ids)
    types, models = _Types(), _models_of({device.model for device in devices if device.model is not None})
    least = PresenceSettings.current().timeout_seconds
    specs: dict[UUID, DeviceSpec] = {}
    for device in devices:
        model = models.get(device.model, _NO_MODEL)
        # A type may have been removed with its components since the components were read.
        own = tuple(row for row in components.get(device.id, ()) if row.component_type in types.by_id)
        mine = keys.get(device.id, ())
        specs[device.uuid] = DeviceSpec(
            tenant=tenant,
            device_id=device.id,
            number=device.uuid.int,
            active=device.active,
            cpu_serial=device.cpu_serial,
            hardware_version=model.version,
            min_signature_version=device.min_signature_version,
            components=types.components_of(own, model.allowed),
            type_keys=types.keys,
            keys=_shared(tuple(KeySpec(key.version, key.not_after) for key in mine)),
            timeout_seconds=_shared(
                timeout_of(device.timeout_seconds, model.timeout_seconds, least, types.intervals_of(own))
            ),
            key_in_use=max(((key.in_use_since, key.version) for key in mine if key.in_use_since), default=(None, 0))[1],
        )
    return specs


class _DeviceRow(NamedTuple):
    id: int
    uuid: UUID
    active: bool
    cpu_serial: str
    min_signature_version: int
    timeout_seconds: int | None
    model: int | None


class _ComponentRow(NamedTuple):
    """A component without its device, so that equal devices have equal ones."""

    key: str
    component_type: int
    attached: bool
    expected_interval: int | None


class _TypeRow(NamedTuple):
    key: str
    unmapped: str
    expected_interval: int


class _KeyRow(NamedTuple):
    version: int
    not_after: datetime | None
    in_use_since: datetime | None


class _Model(NamedTuple):
    """A hardware model; `allowed` are the ids of the allowed component types, None: all."""

    version: str
    timeout_seconds: int | None
    allowed: frozenset[int] | None


_NO_MODEL = _Model("", None, None)


def _components_of(device_ids: list[int]) -> dict[int, list[_ComponentRow]]:
    rows = Component.objects.filter(device_id__in=device_ids).order_by("device_id", "key")
    found: dict[int, list[_ComponentRow]] = {}
    for row in rows.values_list("device_id", "key", "component_type_id", "attached", "expected_interval"):
        found.setdefault(row[0], []).append(_shared(_ComponentRow(*row[1:])))
    return found


def _keys_of(device_ids: list[int]) -> dict[int, list[_KeyRow]]:
    """Return the keys that are not revoked, newest first."""
    rows = DeviceCredential.objects.filter(device_id__in=device_ids, revoked_at=None).order_by("-version")
    found: dict[int, list[_KeyRow]] = {}
    for row in rows.values_list("device_id", "version", "not_after", "in_use_since"):
        found.setdefault(row[0], []).append(_KeyRow(*row[1:]))
    return found


def _models_of(ids: set[int]) -> dict[int | None, _Model]:
    if not ids:
        return {}
    allowed: dict[int, set[int]] = {}
    links = HardwareModel.allowed_component_types.through.objects.filter(hardwaremodel_id__in=ids)
    for model_id, type_id in links.values_list("hardwaremodel_id", "componenttype_id"):
        allowed.setdefault(model_id, set()).add(type_id)
    rows = HardwareModel.objects.filter(id__in=ids).order_by().values_list("id", "version", "timeout_seconds")
    return {
        pk: _Model(_shared(version), timeout, frozenset(allowed[pk]) if pk in allowed else None)
        for pk, version, timeout in rows
    }


class _Types:
    """The tenant's present component types; devices with the same components get the same object."""

    def __init__(self) -> None:
        metrics: dict[int, list[MetricSpec]] = {}
        for metric in Metric.objects.select_related("unit"):
            metrics.setdefault(metric.component_type_id, []).append(_shared(metric_spec(metric)))
        self._metrics = {pk: tuple(listed) for pk, listed in metrics.items()}
        self._made: dict[tuple[tuple[_ComponentRow, ...], frozenset[int] | None], dict[str, ComponentSpec]] = {}
        rows = ComponentType.objects.order_by().values_list("id", "key", "unmapped", "expected_interval")
        self.by_id = {row[0]: _TypeRow(*row[1:]) for row in rows}
        self.keys = _shared(frozenset(row.key for row in self.by_id.values()))

    def components_of(
        self, rows: tuple[_ComponentRow, ...], allowed: frozenset[int] | None
    ) -> dict[str, ComponentSpec]:
        """Return a device's components by key; `allowed` are the ids of the allowed types."""
        alike = rows, allowed
        if alike not in self._made:
            self._made[alike] = _by_key(tuple(_shared(self._component(row, allowed)) for row in rows))
        return self._made[alike]

    def intervals_of(self, rows: Iterable[_ComponentRow]) -> list[int]:
        """Return the expected intervals of the attached components in seconds."""
        return [
            row.expected_interval or self.by_id[row.component_type].expected_interval for row in rows if row.attached
        ]

    def _component(self, row: _ComponentRow, allowed: frozenset[int] | None) -> ComponentSpec:
        its_type = self.by_id[row.component_type]
        return ComponentSpec(
            key=row.key,
            type_key=its_type.key,
            attached=row.attached,
            allowed=allowed is None or row.component_type in allowed,
            metrics=self._metrics.get(row.component_type, ()),
            unmapped=its_type.unmapped,
        )


def metric_spec(metric: Metric) -> MetricSpec:
    """Return the frozen specification of the metric."""
    return MetricSpec(
        key=metric.key,
        path=paths.parse(metric.path),
        value_type=metric.value_type,
        unit=metric.unit.symbol if metric.unit else "",
        factor=metric.factor,
        offset=metric.offset,
        minimum=metric.minimum,
        maximum=metric.maximum,
        true_value=metric.true_value,
        false_value=metric.false_value,
        unit_path=paths.parse(metric.unit_path) if metric.unit_path else (),
        conversions=tuple((name, factor, offset) for name, (factor, offset) in metric.conversions.items()),
    )
