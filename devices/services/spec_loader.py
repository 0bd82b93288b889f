"""Reads device specifications from the tenants' schemas."""

from collections.abc import Collection, Hashable, Iterable
from functools import lru_cache
from typing import TypeVar
from uuid import UUID

from django.db import OperationalError
from django.db.models import Prefetch
from django_tenants.utils import schema_context

from devices.models import (
    Component,
    ComponentType,
    Device,
    DeviceCredential,
    HardwareModel,
    Metric,
    PresenceSettings,
)
from devices.services import paths
from devices.services.specs import ComponentSpec, DeviceSpec, KeySpec, LimitSpec, MetricSpec, RateSpec, TenantSpec
from devices.services.timeouts import interval_of, timeout_of
from tenants.database import is_busy
from tenants.limits import Limit, LimitName, limits_of
from tenants.models import DeviceRoute, Tenant

# By schema, so that all devices of a tenant share one object: whoever holds it sees a change by identity.
_limits: dict[str, LimitSpec] = {}

# How many different objects are remembered, to be the same in all devices that are alike.
_ALIKE = 8192

Shared = TypeVar("Shared", bound=Hashable)


@lru_cache(maxsize=_ALIKE)
def _shared(one: Shared) -> Shared:
    """The object that is equal to this one and was seen first: a fleet's devices differ in little."""
    return one


@lru_cache(maxsize=_ALIKE)
def _by_key(components: tuple[ComponentSpec, ...]) -> dict[str, ComponentSpec]:
    """The components of all devices that have the same ones, in one dict, which nobody changes."""
    return {component.key: component for component in components}


def load_specs(uuids: Collection[UUID], busy: dict[UUID, str] | None = None) -> dict[UUID, DeviceSpec]:
    """The specifications of those of the devices that are registered, whichever tenants they belong to.

    One query for the routes, and a handful for each tenant in them. Leaves the connection in the public schema.
    Devices of a tenant whose tables are locked are put into `busy` with its schema, where it is given.
    """
    specs: dict[UUID, DeviceSpec] = {}
    with schema_context("public"):
        tenants = _tenants_of(uuids)
    for tenant, owned in tenants:
        try:
            with schema_context(tenant.schema):
                specs |= _load_of_tenant(tenant, owned)
        except OperationalError as error:
            if busy is None or not is_busy(error):
                raise
            busy |= dict.fromkeys(owned, tenant.schema)
    return specs


def load_tenant_by_segment(segment: str) -> TenantSpec | None:
    """The tenant with that slug, for a message that names no registered device."""
    with schema_context("public"):
        tenant = Tenant.objects.filter(slug=segment).select_related("limits__plan").prefetch_related("aliases").first()
    return _tenant_spec(tenant) if tenant is not None and tenant.state == Tenant.State.ACTIVE else None


def _tenants_of(uuids: Collection[UUID]) -> list[tuple[TenantSpec, list[UUID]]]:
    routes = DeviceRoute.objects.filter(device_uuid__in=uuids).values_list("tenant_id", "device_uuid")
    owned: dict[int, list[UUID]] = {}
    for tenant_id, uuid in routes:
        owned.setdefault(tenant_id, []).append(uuid)
    tenants = Tenant.objects.filter(pk__in=owned).select_related("limits__plan").prefetch_related("aliases")
    return [(_tenant_spec(tenant), owned[tenant.pk]) for tenant in tenants]


def _tenant_spec(tenant: Tenant) -> TenantSpec:
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
        # The platform's own holds for all, and needs no limit of the tenant.
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
    devices = (
        Device.objects.filter(uuid__in=uuids)
        .select_related("hardware_model")
        .prefetch_related(
            Prefetch("components", Component.objects.select_related("component_type")),
            Prefetch("credentials", DeviceCredential.objects.filter(revoked_at=None).order_by("-version")),
            "hardware_model__allowed_component_types",
        )
    )
    types = _Types()
    least = PresenceSettings.current().timeout_seconds
    return {device.uuid: _device_spec(tenant, device, types, least) for device in devices}


def _device_spec(
    tenant: TenantSpec,
    device: Device,
    types: "_Types",
    least_timeout: int,
) -> DeviceSpec:
    allowed = _allowed_types(device.hardware_model)
    return DeviceSpec(
        tenant=tenant,
        device_id=device.pk,
        uuid=device.uuid,
        active=device.active,
        cpu_serial=device.cpu_serial,
        hardware_version=_shared(device.hardware_model.version if device.hardware_model else ""),
        signature_floor=device.signature_floor,
        components=types.components_of(device, allowed),
        type_keys=types.keys,
        keys=_shared(tuple(KeySpec(row.version, row.not_after) for row in device.credentials.all())),
        timeout_seconds=timeout_of(
            device.timeout_seconds,
            device.hardware_model.timeout_seconds if device.hardware_model else None,
            least_timeout,
            [interval_of(component) for component in device.components.all() if component.attached],
        ),
        key_in_use=_key_in_use(device.credentials.all()),
    )


class _Types:
    """The tenant's component types as they are now; devices with the same components get the same object."""

    def __init__(self) -> None:
        metrics: dict[int, list[MetricSpec]] = {}
        for metric in Metric.objects.select_related("unit"):
            metrics.setdefault(metric.component_type_id, []).append(_shared(metric_spec(metric)))
        self._metrics = {pk: tuple(listed) for pk, listed in metrics.items()}
        self._made: dict[tuple[tuple[str, int, bool, bool], ...], dict[str, ComponentSpec]] = {}
        self.keys = _shared(frozenset(ComponentType.objects.values_list("key", flat=True)))

    def components_of(self, device: Device, allowed: set[int] | None) -> dict[str, ComponentSpec]:
        """The device's components by their keys; `allowed` are the ids of the types that it may carry."""
        rows = list(device.components.all())
        alike = tuple(
            (row.key, row.component_type_id, row.attached, allowed is None or row.component_type_id in allowed)
            for row in rows
        )
        if alike not in self._made:
            specs = (self._component(row, is_allowed) for row, (*_, is_allowed) in zip(rows, alike, strict=True))
            self._made[alike] = _by_key(tuple(_shared(spec) for spec in specs))
        return self._made[alike]

    def _component(self, row: Component, is_allowed: bool) -> ComponentSpec:
        return ComponentSpec(
            key=row.key,
            type_key=row.component_type.key,
            attached=row.attached,
            allowed=is_allowed,
            metrics=self._metrics.get(row.component_type_id, ()),
            unmapped=row.component_type.unmapped,
        )


def _key_in_use(keys: Iterable[DeviceCredential]) -> int:
    used = [(key.in_use_since, key.version) for key in keys if key.in_use_since is not None]
    return max(used)[1] if used else 0


def _allowed_types(model: HardwareModel | None) -> set[int] | None:
    """Ids of the component types that the model may carry; None: all."""
    if model is None:
        return None
    ids: Iterable[ComponentType] = model.allowed_component_types.all()
    return {component_type.pk for component_type in ids} or None


def metric_spec(metric: Metric) -> MetricSpec:
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
