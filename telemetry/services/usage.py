"""The use of the current tenant: its devices, messages and readings of a day, storage and limits."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from django.db import connection

from devices.models import Device
from telemetry.models import IngestTotals
from tenants.infrastructure.database import current_schema
from tenants.models import TenantLimits

from .limits.overview import LimitUse, limits_now

# Tables with their indexes and long values; partitions are tables of their own.
_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'm')
"""


@dataclass(frozen=True, slots=True)
class DayUse:
    """The messages that were received on a day (UTC), and the readings that were stored of them."""

    day: date
    messages: int
    readings: int


@dataclass(frozen=True, slots=True)
class TenantUse:
    """The use of a tenant. `plan` is the name of its plan, or None."""

    plan: str | None
    devices: int
    active_devices: int
    storage_bytes: int
    days: list[DayUse]
    limits: list[LimitUse]


def tenant_use(days: int) -> TenantUse:
    """Return the use of the current tenant, of today and the days before it, newest first; every day has an entry."""
    newest = datetime.now(UTC).date()
    rows = IngestTotals.objects.filter(day__gt=newest - timedelta(days=days))
    found = {row.day: DayUse(row.day, row.received, row.values_stored) for row in rows}
    listed = [newest - timedelta(days=number) for number in range(days)]
    with connection.cursor() as cursor:
        cursor.execute(_BYTES)
        storage = int(cursor.fetchone()[0])
    plans = TenantLimits.objects.filter(tenant__schema_name=current_schema())
    return TenantUse(
        plan=plans.values_list("plan__name", flat=True).first(),
        devices=Device.objects.count(),
        active_devices=Device.objects.filter(active=True).count(),
        storage_bytes=storage,
        days=[found.get(day, DayUse(day, 0, 0)) for day in listed],
        limits=limits_now(),
    )
