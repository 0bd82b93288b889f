"""The rows that device specifications are made of, of many tenants' schemas in one statement for each table."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Model

from devices.models import (
    Component,
    ComponentType,
    Device,
    DeviceCredential,
    HardwareModel,
    Metric,
    PresenceSettings,
    Unit,
)


class DeviceRow(NamedTuple):
    """A device; `model` is the id of its hardware model, `gateway` the UUID of its gateway."""

    id: int
    uuid: UUID
    active: bool
    cpu_serial: str
    min_signature_version: int
    timeout_seconds: int | None
    model: int | None
    gateway: UUID | None


class StoredComponent(NamedTuple):
    """A component without its device, so that equal devices have equal ones."""

    key: str
    component_type: int
    attached: bool
    expected_interval: int | None


class TypeRow(NamedTuple):
    """A component type."""

    key: str
    unmapped: str
    invalid_values: str
    expected_interval: int
    list_path: str
    list_form: str
    time_path: str
    time_format: str
    time_zone: str


class KeyRow(NamedTuple):
    """A key that is not revoked."""

    version: int
    not_after: datetime | None
    in_use_since: datetime | None


class ModelRow(NamedTuple):
    """A hardware model; `allowed` are the ids of the allowed component types, None: all."""

    version: str
    timeout_seconds: int | None
    text_wills: bool
    allowed: frozenset[int] | None


class MetricRow(NamedTuple):
    """A metric of a component type with its unit's symbol."""

    component_type: int
    key: str
    path: str
    value_type: str
    symbol: str | None
    factor: str
    offset: str
    minimum: float | None
    maximum: float | None
    true_value: str
    false_value: str
    unit_path: str
    number_format: str
    sentinels: str
    sentinel_treatment: str
    numbers_as_text: bool
    conversions: str


class TenantRows(NamedTuple):
    """The rows of one tenant: of the requested devices, and all types with their metrics.

    Components are ordered by key, keys from the newest to the oldest; both by the device's id. `timeout_seconds` is the
    tenant's own least timeout, None without settings of its own.
    """

    devices: list[DeviceRow]
    components: dict[int, list[StoredComponent]]
    keys: dict[int, list[KeyRow]]
    models: dict[int, ModelRow]
    types: dict[int, TypeRow]
    metrics: list[MetricRow]
    timeout_seconds: int | None


def read_rows(owned: Mapping[str, Sequence[UUID]]) -> dict[str, TenantRows]:
    """Return the rows of the devices with these UUIDs, by schema: eight statements, however many schemas there are.

    Raises Django's error where one of them is locked or faulty.
    """
    schemas = list(owned)
    # One cursor: Django's connection sets the search path for each.
    with connection.cursor() as cursor:
        read = partial(_read, cursor, schemas)
        devices = read(_DEVICES, lambda schema: [list(owned[schema])])
        ids = {schema: [row[0] for row in rows] for schema, rows in devices.items()}
        components, keys = (read(text, lambda schema: [ids[schema]]) for text in (_COMPONENTS, _KEYS))
        types, metrics, models, links, settings = (
            read(text, lambda _: []) for text in (_TYPES, _METRICS, _MODELS, _LINKS, _SETTINGS)
        )
    return {
        schema: TenantRows(
            [DeviceRow(*row) for row in devices[schema]],
            _by_device(sorted(components[schema], key=lambda row: row[:2]), StoredComponent),
            _by_device(sorted(keys[schema], key=lambda row: -row[1]), KeyRow),
            _models(models[schema], links[schema]),
            {row[0]: TypeRow(*row[1:]) for row in types[schema]},
            [MetricRow(*row) for row in metrics[schema]],
            settings[schema][0][0] if settings[schema] else None,
        )
        for schema in schemas
    }


def _by_device(rows: Sequence[tuple[Any, ...]], kind: Callable[..., Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(kind(*row[1:]))
    return found


def _models(rows: Sequence[tuple[Any, ...]], links: Sequence[tuple[Any, ...]]) -> dict[int, ModelRow]:
    allowed: dict[int, set[int]] = {}
    for model_id, type_id in links:
        allowed.setdefault(model_id, set()).add(type_id)
    return {
        pk: ModelRow(version, timeout, text_wills, frozenset(allowed[pk]) if pk in allowed else None)
        for pk, version, timeout, text_wills in rows
    }


# --- statements ---------------------------------------------------------------------------------------------------


def _columns(model: type[Model], *names: str, alias: str = "a") -> str:
    fields = {field.name: field.column for field in model._meta.concrete_fields}
    return ", ".join(f'{alias}."{fields[name]}"' for name in names)


def _select(model: type[Model], *names: str, where: str = "true") -> str:
    """Return a part of a statement: `{number}` and `{schema}` are filled in for each schema."""
    table = model._meta.db_table
    return f'SELECT {{number}}, {_columns(model, *names)} FROM {{schema}}."{table}" AS a WHERE {where}'  # noqa: S608


_DEVICE_FIELDS = ("id", "uuid", "active", "cpu_serial", "min_signature_version", "timeout_seconds", "hardware_model")
_DEVICES = (
    f"SELECT {{number}}, {_columns(Device, *_DEVICE_FIELDS)}, {_columns(Device, 'uuid', alias='g')}"  # noqa: S608
    f' FROM {{schema}}."{Device._meta.db_table}" AS a'
    f' LEFT JOIN {{schema}}."{Device._meta.db_table}" AS g ON g.id = a.gateway_id'
    " WHERE a.uuid = ANY(%s::uuid[])"
)
_COMPONENTS = _select(
    Component,
    *("device", "key", "component_type", "attached", "expected_interval"),
    where="a.device_id = ANY(%s::bigint[])",
)
_KEYS = _select(
    DeviceCredential,
    *("device", "version", "not_after", "in_use_since"),
    where="a.device_id = ANY(%s::bigint[]) AND a.revoked_at IS NULL",
)
_TYPES = _select(
    ComponentType,
    *("id", "key", "unmapped", "invalid_values", "expected_interval"),
    *("list_path", "list_form", "time_path", "time_format", "time_zone"),
)
_MODELS = _select(HardwareModel, "id", "version", "timeout_seconds", "text_wills")
_LINKS = _select(HardwareModel.allowed_component_types.through, "hardwaremodel", "componenttype")
_SETTINGS = _select(PresenceSettings, "timeout_seconds")
_BEFORE_UNIT = ("component_type", "key", "path", "value_type")
_AFTER_UNIT = (
    *("factor", "offset", "minimum", "maximum", "true_value", "false_value", "unit_path"),
    *("number_format", "sentinels", "sentinel_treatment", "numbers_as_text"),
    "conversions",
)
_METRICS = (
    f"SELECT {{number}}, {_columns(Metric, *_BEFORE_UNIT)}, {_columns(Unit, 'symbol', alias='u')},"  # noqa: S608
    f" {_columns(Metric, *_AFTER_UNIT)}::text"
    f' FROM {{schema}}."{Metric._meta.db_table}" AS a'
    f' LEFT JOIN {{schema}}."{Unit._meta.db_table}" AS u ON u.id = a.unit_id'
)


def _read(
    cursor: Any, schemas: Sequence[str], part: str, parameters: Callable[[str], list[Any]]
) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows by schema, without the schema's number."""
    parts = [
        part.format(number=number, schema=connection.ops.quote_name(schema)) for number, schema in enumerate(schemas)
    ]
    found: dict[str, list[tuple[Any, ...]]] = {schema: [] for schema in schemas}
    cursor.execute(" UNION ALL ".join(parts), [value for schema in schemas for value in parameters(schema)])
    for number, *row in cursor.fetchall():
        found[schemas[number]].append(tuple(row))
    return found
