"""Loading of device specifications from the tenants' schemas."""

import json
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from django.db import DatabaseError, connection
from django_tenants.utils import schema_context

from devices.domain import paths
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import ComponentSpec, DeviceSpec, KeySpec, LimitSpec, RateSpec, TenantSpec
from devices.models import Metric, PresenceSettings
from devices.models.entry_lists import entry_list_of
from devices.services.presence.timeouts import timeout_of
from tenants.infrastructure.chunks import chunks
from tenants.infrastructure.retry import first_line, is_lock_conflict
from tenants.infrastructure.sql_errors import is_of_tenant
from tenants.models import Tenant
from tenants.services.limits import Limit, LimitName, limits_of

from .rows import MetricRow, ModelRow, StoredComponent, TenantRows, read_rows

# By schema, so that all devices of a tenant share one object and a change is recognized by identity.
_limits: dict[str, LimitSpec] = {}

# How many different objects are cached, to be shared by equal devices.
_ALIKE = 8192
# Each takes locks on its tables and their indexes, and some time to plan.
_TENANTS_PER_STATEMENT = 50

_ROUTES = "SELECT tenant_id, device_uuid FROM tenants_deviceroute WHERE device_uuid = ANY(%s::uuid[])"
_CANDIDATES = """
SELECT c.tenant_id, c.device_uuid, t.schema_name FROM tenants_routecandidate AS c JOIN tenants_tenant AS t
    ON t.id = c.tenant_id WHERE c.device_uuid = ANY(%s::uuid[]) ORDER BY c.id
"""

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

    Three queries for the routes, and eight for every 50 tenants. Leaves the connection in the public schema. If
    `blocked` is given, devices of a tenant whose tables are locked or faulty are added to it.
    """
    with schema_context("public"):
        tenants = _tenants_of(uuids)
        specs: dict[UUID, DeviceSpec] = {}
        for chunk in chunks(tenants, _TENANTS_PER_STATEMENT):
            specs |= _load(chunk, blocked)
    return specs


def _load(
    tenants: Sequence[tuple[TenantSpec, list[UUID]]], blocked: dict[UUID, BlockedTenant] | None
) -> dict[UUID, DeviceSpec]:
    """Load the devices of the tenants together or, where that fails, of each tenant by itself."""
    try:
        rows = read_rows({tenant.schema: owned for tenant, owned in tenants})
    except DatabaseError as error:
        if blocked is None or not is_of_tenant(error):
            raise
        if len(tenants) == 1:
            ((tenant, owned),) = tenants
            fault = "" if is_lock_conflict(error) else first_line(error)
            blocked |= dict.fromkeys(owned, BlockedTenant(tenant.schema, fault))
            return {}
    else:
        return {uuid: spec for tenant, _ in tenants for uuid, spec in _specs_of(tenant, rows[tenant.schema]).items()}
    return {uuid: spec for one in tenants for uuid, spec in _load([one], blocked).items()}


def load_candidates(uuids: Collection[UUID]) -> dict[UUID, tuple[DeviceSpec, ...]]:
    """Return the specifications of unproven registrations, in the order of their registration.

    One query where there are none. Those of a tenant whose tables are locked or faulty are left out.
    """
    with schema_context("public"):
        rows = _rows_of(_CANDIDATES, uuids)
        tenants = _by_tenant((tenant_id, uuid) for tenant_id, uuid, _ in rows) if rows else []
        loaded = {tenant.schema: _load([(tenant, owned)], {}) for tenant, owned in tenants}
    found: dict[UUID, tuple[DeviceSpec, ...]] = {}
    for _, uuid, schema in rows:
        if (spec := loaded[schema].get(uuid)) is not None:
            found[uuid] = (*found.get(uuid, ()), spec)
    return found


def _tenants_of(uuids: Collection[UUID]) -> list[tuple[TenantSpec, list[UUID]]]:
    return _by_tenant(_rows_of(_ROUTES, uuids))


def _rows_of(statement: str, uuids: Iterable[UUID]) -> list[Any]:
    """Execute a statement on UUIDs. They are one text: a flood names thousands, and an object of each is expensive."""
    with connection.cursor() as cursor:
        cursor.execute(statement, [f"{{{','.join([f'{uuid.int:032x}' for uuid in uuids])}}}"])
        return cursor.fetchall()


def _by_tenant(rows: Iterable[tuple[int, UUID]]) -> list[tuple[TenantSpec, list[UUID]]]:
    owned: dict[int, list[UUID]] = {}
    for tenant_id, uuid in rows:
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


def _specs_of(tenant: TenantSpec, rows: TenantRows) -> dict[UUID, DeviceSpec]:
    types = _Types(rows)
    least = rows.timeout_seconds if rows.timeout_seconds is not None else PresenceSettings().timeout_seconds
    specs: dict[UUID, DeviceSpec] = {}
    for device in rows.devices:
        model = _NO_MODEL if device.model is None else rows.models.get(device.model, _NO_MODEL)
        # A type may have been removed with its components since the components were read.
        own = tuple(_shared(row) for row in rows.components.get(device.id, ()) if row.component_type in types.by_id)
        mine = rows.keys.get(device.id, ())
        specs[device.uuid] = DeviceSpec(
            tenant=tenant,
            device_id=device.id,
            number=device.uuid.int,
            active=device.active,
            cpu_serial=device.cpu_serial,
            hardware_version=_shared(model.version),
            min_signature_version=device.min_signature_version,
            components=types.components_of(own, model.allowed),
            type_keys=types.keys,
            keys=_shared(tuple(KeySpec(key.version, key.not_after) for key in mine)),
            timeout_seconds=_shared(
                timeout_of(device.timeout_seconds, model.timeout_seconds, least, types.intervals_of(own))
            ),
            key_in_use=max(((key.in_use_since, key.version) for key in mine if key.in_use_since), default=(None, 0))[1],
            text_wills=model.text_wills,
            gateway=_shared(device.gateway.int) if device.gateway else 0,
        )
    return specs


_NO_MODEL = ModelRow("", None, False, None)


class _Types:
    """The tenant's present component types; devices with the same components get the same object."""

    def __init__(self, rows: TenantRows) -> None:
        metrics: dict[int, list[MetricSpec]] = {}
        for row in rows.metrics:
            metrics.setdefault(row.component_type, []).append(_metric_of(row))
        self._metrics = {pk: tuple(listed) for pk, listed in metrics.items()}
        self._made: dict[tuple[tuple[StoredComponent, ...], frozenset[int] | None], dict[str, ComponentSpec]] = {}
        self.by_id = rows.types
        self.keys = _shared(frozenset(row.key for row in self.by_id.values()))

    def components_of(
        self, rows: tuple[StoredComponent, ...], allowed: frozenset[int] | None
    ) -> dict[str, ComponentSpec]:
        """Return a device's components by key; `allowed` are the ids of the allowed types."""
        alike = rows, allowed
        if alike not in self._made:
            self._made[alike] = _by_key(tuple(_shared(self._component(row, allowed)) for row in rows))
        return self._made[alike]

    def intervals_of(self, rows: Iterable[StoredComponent]) -> list[int]:
        """Return the expected intervals of the attached components in seconds."""
        return [
            row.expected_interval or self.by_id[row.component_type].expected_interval for row in rows if row.attached
        ]

    def _component(self, row: StoredComponent, allowed: frozenset[int] | None) -> ComponentSpec:
        its_type = self.by_id[row.component_type]
        return ComponentSpec(
            key=row.key,
            type_key=its_type.key,
            attached=row.attached,
            allowed=allowed is None or row.component_type in allowed,
            metrics=self._metrics.get(row.component_type, ()),
            unmapped=its_type.unmapped,
            invalid_values=its_type.invalid_values,
            entries=entry_list_of(its_type),
        )


@lru_cache(maxsize=_ALIKE)
def _metric_of(row: MetricRow) -> MetricSpec:
    """Return the frozen specification of a metric's row; equal rows share one, which is costly to make."""
    return _metric_spec(row, row.symbol or "", json.loads(row.conversions))


def metric_spec(metric: Metric) -> MetricSpec:
    """Return the frozen specification of the metric."""
    return _metric_spec(metric, metric.unit.symbol if metric.unit else "", metric.conversions)


def _metric_spec(metric: Metric | MetricRow, symbol: str, conversions: Mapping[str, Sequence[str]]) -> MetricSpec:
    return MetricSpec(
        key=metric.key,
        path=paths.parse(metric.path),
        value_type=metric.value_type,
        unit=symbol,
        factor=metric.factor,
        offset=metric.offset,
        minimum=metric.minimum,
        maximum=metric.maximum,
        true_value=metric.true_value,
        false_value=metric.false_value,
        unit_path=paths.parse(metric.unit_path) if metric.unit_path else (),
        number_format=metric.number_format,
        sentinels=metric.sentinels,
        sentinel_treatment=metric.sentinel_treatment,
        numbers_as_text=metric.numbers_as_text,
        conversions=tuple((name, factor, offset) for name, (factor, offset) in conversions.items()),
    )
