"""The rows that the API is measured on: two tenants, with readings of many months and of one."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
from django.core.management import call_command
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.models import (
    Component,
    ComponentType,
    Device,
    DeviceCredential,
    DeviceStatus,
    HardwareModel,
    Metric,
    StatusChange,
    Unit,
)
from devices.services.api_keys import issue_api_key
from devices.services.presence import redis_scripts as presence_scripts
from telemetry.models import Series
from telemetry.services.latest import values
from telemetry.services.rollups import aggregation, partitions
from tenants.models import DeviceRoute, Tenant
from tenants.services.lifecycle import create_tenant

METRICS = (("temperature", "°C"), ("humidity", "%"), ("pressure", "hPa"))
COMPONENT = "bme280"
_DENSE_DAYS = 30
_TIMEOUT = 3600.0

# Of the dense device a reading each minute of 30 days, and one each hour of a day of the months before; of every
# other device one a day of the last 30.
_FILL = """
INSERT INTO telemetry_reading (series_id, time, value)
SELECT s.id, m.time, round((20 + 5 * sin(extract(epoch FROM m.time)::float8 / 13751 + s.id))::numeric, 2)::float8
FROM telemetry_series s CROSS JOIN LATERAL (
    SELECT %(stop)s::timestamptz - n * interval '1 minute' AS time
    FROM generate_series(0, %(minutes)s - 1) AS n WHERE s.device_id = %(dense)s
    UNION ALL
    SELECT %(stop)s::timestamptz - %(minutes)s * interval '1 minute'
        - month * interval '30 days' - n * interval '1 hour'
    FROM generate_series(0, %(months)s - 2) AS month, generate_series(0, 23) AS n WHERE s.device_id = %(dense)s
    UNION ALL
    SELECT %(stop)s::timestamptz - n * interval '1 day'
    FROM generate_series(0, 29) AS n WHERE s.device_id <> %(dense)s
) m
"""


@dataclass(frozen=True, slots=True)
class BenchTenant:
    """A tenant with devices and readings, one of its API keys, and the device with the most readings.

    `stop` is the time of the newest reading; `stored` has the rows of `telemetry_reading` of the dense device's first
    metric, newest last, as (time, value).
    """

    tenant: Tenant
    key: str
    dense: UUID
    stop: datetime
    devices: int
    months: int
    stored: list[tuple[datetime, float]] = field(repr=False)
    newest: dict[str, float] = field(repr=False)


def make_tenant(slug: str, *, devices: int, months: int) -> BenchTenant:
    """Create a tenant with so many devices, and readings in the partitions of so many months."""
    tenant = create_tenant(slug=slug, name=slug.title())
    stop = datetime.now(UTC).replace(second=0, microsecond=0)
    with schema_context(tenant.schema_name):
        made = _make_devices(tenant, devices)
        _make_readings(made[0], stop, months)
        _make_presence(tenant.schema_name, made, stop)
        vacuum()
        aggregation.roll_up(seconds=3600)
        # A listener that has started and stopped properly: what Redis has is complete.
        listener = values.LatestRecorder()
        values.refill()
        listener.close()
        key = issue_api_key(name="benchmark")[1]
        return BenchTenant(tenant, key, made[0].uuid, stop, devices, months, _stored(made[0]), _newest(made[0], stop))


def migrate() -> None:
    """Create the public schema's tables."""
    call_command("migrate_schemas", shared=True, verbosity=0)


def vacuum() -> None:
    """Do what autovacuum does after a while."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")


def _make_devices(tenant: Tenant, count: int) -> list[Device]:
    kind = ComponentType.objects.create(key=COMPONENT, name="BME280", expected_interval=60)
    for key, symbol in METRICS:
        unit = Unit.objects.filter(symbol=symbol).first()
        Metric.objects.create(component_type=kind, key=key, name=key, unit=unit)
    model = HardwareModel.objects.create(name="Gateway", version="1")
    devices = Device.objects.bulk_create(
        [
            Device(uuid=uuid4(), name=f"device {n:04}", hardware_model=model, cpu_serial=f"{n:016x}")
            for n in range(count)
        ]
    )
    DeviceRoute.objects.bulk_create([DeviceRoute(device_uuid=each.uuid, tenant=tenant) for each in devices])
    DeviceCredential.objects.bulk_create([DeviceCredential(device=each, version=1) for each in devices])
    Component.objects.bulk_create([Component(device=each, component_type=kind, key=COMPONENT) for each in devices])
    Series.objects.bulk_create(
        Series(device=each, component=COMPONENT, metric=metric, unit=unit, value_type="number")
        for each in devices
        for metric, unit in METRICS
    )
    return devices


def _make_readings(dense: Device, stop: datetime, months: int) -> None:
    minutes = _DENSE_DAYS * 1440
    times = [stop - timedelta(days=n) for n in range(_DENSE_DAYS + 30 * months + 2)]
    with connection.cursor() as cursor:
        partitions.Partitions(kept_months=months + 3).ensure(cursor.connection, connection.schema_name, times)  # type: ignore[attr-defined]
        cursor.execute(_FILL, {"stop": stop, "minutes": minutes, "months": months, "dense": dense.pk})


def _make_presence(schema: str, devices: list[Device], now: datetime) -> None:
    online: dict[str, Any] = {"to_status": "ONLINE", "cause": "telemetry", "evidence_at": now, "at": now}
    StatusChange.objects.bulk_create([StatusChange(device=each, from_status="UNKNOWN", **online) for each in devices])
    DeviceStatus.objects.bulk_create(
        [DeviceStatus(device=each, status="ONLINE", cause="telemetry", since=now, last_seen_at=now) for each in devices]
    )
    keys = (presence_scripts.LISTENING, presence_scripts.LAST_SEEN, presence_scripts.DEADLINE, presence_scripts.TIMEOUT)
    at = now.timestamp()
    parts = [part for each in devices for part in (str(each.uuid), f"{schema}:{each.uuid}", at, _TIMEOUT)]
    get_redis_connection("default").eval(presence_scripts.WRITE_ACTIVITY, len(keys), *keys, orjson.dumps([at, *parts]))


def _stored(device: Device) -> list[tuple[datetime, float]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT r.time, r.value FROM telemetry_reading r JOIN telemetry_series s ON s.id = r.series_id"
            " WHERE s.device_id = %s AND s.metric = %s ORDER BY r.time",
            [device.pk, METRICS[0][0]],
        )
        return list(cursor.fetchall())


def _newest(device: Device, stop: datetime) -> dict[str, float]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT s.metric, r.value FROM telemetry_reading r JOIN telemetry_series s ON s.id = r.series_id"
            " WHERE s.device_id = %s AND r.time = %s",
            [device.pk, stop],
        )
        return dict(cursor.fetchall())
