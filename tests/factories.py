"""Rows and devices that tests make: tenants, users, keys, devices, components, series, readings, messages."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.db import connection, transaction
from django_tenants.utils import schema_context

from .database_template import copy_tenant_schema


def make_tenant(slug: str, *, name: str = "", owner: Any = None) -> Any:
    """Create a tenant that holds what a new one has, and the demonstration hardware; remove it by `remove_tenant`."""
    from tenants.services.lifecycle import create_tenant, schema_name_of

    with schema_context("public"):
        copy_tenant_schema(schema_name_of(slug))
        return create_tenant(slug=slug, name=name or slug, owner=owner)


def remove_tenant(tenant: Any) -> None:
    """Remove the tenant with its schema, and the routes of its devices."""
    from tenants.models import DeviceRoute

    with schema_context("public"), transaction.atomic(), connection.cursor() as cursor:
        DeviceRoute.objects.filter(tenant=tenant).delete()
        tenant.delete()
        cursor.execute(f"DROP SCHEMA {connection.ops.quote_name(tenant.schema_name)} CASCADE")


def make_user(name: str, tenant: Any = None, role: str = "", **flags: Any) -> Any:
    """Create a user, with a role in a tenant where one is given."""
    from tenants.models import Membership, User

    user = User.objects.create_user(username=name, **flags)
    if tenant is not None:
        Membership.objects.create(user=user, tenant=tenant, role=role)
    return user


@dataclass
class Registered:
    """A registered device and its credentials."""

    tenant: Any
    device: Any
    secret: str
    kid: str
    mqtt_password: str

    @property
    def uuid(self) -> str:
        """The device's UUID as topics and messages contain it."""
        return str(self.device.uuid)


def register_device(tenant: Any, components: dict[str, str] | None = None, **fields: Any) -> Registered:
    """Register a device (PostgreSQL, Vault, broker) with components (key → type), by default one `dht22`."""
    from devices.models import ComponentType, HardwareModel
    from devices.services.provisioning import registration

    wanted = {"dht22": "dht22"} if components is None else components
    with schema_context(tenant.schema_name):
        types = {each.key: each for each in ComponentType.objects.all()}
        fields.setdefault("name", f"device {secrets.token_hex(4)}")
        fields.setdefault("cpu_serial", secrets.token_hex(8))
        fields.setdefault("hardware_model", HardwareModel.objects.first())
        parts = {key: types[component_type] for key, component_type in wanted.items()}
        device, issued = registration.register_device(components=parts, **fields)
    return Registered(tenant, device, issued.secret, str(issued.key_version), issued.mqtt_password)


def issue_key(tenant: Any, scope: str = "write", **options: Any) -> str:
    """Return the text of a new key of the tenant; `expires_at`, or `revoked=True`."""
    from devices.services.api_keys import issue_api_key, revoke_api_key

    with schema_context(tenant.schema_name):
        revoked = options.pop("revoked", False)
        key, text = issue_api_key(name=f"a {scope} key", scope=scope, **options)
        if revoked:
            revoke_api_key(key)
    return text


def make_device(tenant: Any, name: str = "a device", **components: str) -> Any:
    """Create a device with components (key → type) as rows only: no secret, no account at the broker."""
    from devices.models import Component, ComponentType, Device, DeviceCredential, DeviceStatus
    from tenants.models import DeviceRoute

    with schema_context(tenant.schema_name):
        device = Device.objects.create(name=name)
        DeviceStatus.objects.create(device=device)
        DeviceRoute.objects.create(device_uuid=device.uuid, tenant=tenant)
        DeviceCredential.objects.create(device=device, version=1)
        for key, component_type in components.items():
            Component.objects.create(
                device=device, key=key, component_type=ComponentType.objects.get(key=component_type)
            )
    return device


def add_series(tenant: Any, device: Any, component: str, metric: str, unit: str, kind: str = "number") -> int:
    """Create a series; return its id."""
    from telemetry.models import Series

    with schema_context(tenant.schema_name):
        return Series.objects.create(device=device, component=component, metric=metric, unit=unit, value_type=kind).pk


def add_readings(tenant: Any, series: int, *rows: tuple[datetime, Any]) -> None:
    """Insert readings (time, number | bool | text) of a series."""
    with schema_context(tenant.schema_name), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO telemetry_reading (series_id, time, value, text) VALUES (%s, %s, %s, %s)",
            [(series, time, *((None, v) if isinstance(v, str) else (float(v), None))) for time, v in rows],
        )


def add_message(tenant: Any, device: Any, time: datetime, payload: bytes = b"{}", mark: UUID | None = None) -> None:
    """Insert a message as received."""
    with schema_context(tenant.schema_name), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO telemetry_message (device_id, time, fingerprint, received_at, topic, payload, signature,"
            " key_version, late) VALUES (%s, %s, %s, %s, %s, %s, 1, 1, false)",
            [device.pk, time, mark or uuid4(), time, f"telemetry/{tenant.slug}/{device.uuid}/dht22", payload],
        )


def add_change(tenant: Any, device: Any, status: str, cause: str, at: datetime, **fields: Any) -> Any:
    """Create a status change recorded at `at`, and set the device's state with it."""
    from devices.models import DeviceStatus, StatusChange

    with schema_context(tenant.schema_name):
        state = DeviceStatus.objects.get(device=device)
        before, state.status, state.cause, state.since = state.status, status, cause, at
        state.save()
        return StatusChange.objects.create(
            device=device,
            from_status=before,
            to_status=status,
            cause=cause,
            at=at,
            **{"evidence_at": at, **fields},
        )


def add_quarantined(tenant: Any, received: datetime, reason: str = "bad_signature", **fields: Any) -> Any:
    """Create a quarantined message."""
    from telemetry.models import Quarantined

    with schema_context(tenant.schema_name):
        return Quarantined.objects.create(
            fingerprint=uuid4(),
            reason=reason,
            first_received_at=received,
            last_received_at=received,
            **{"payload": b"{}", "topic": "telemetry/x", "detail": "in words", **fields},
        )
