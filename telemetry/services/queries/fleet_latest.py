"""The newest values of all of a tenant's devices, page by page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from devices.models import Metric
from telemetry.services.latest.values import newest_readings

from .readings import ReadingValue

FleetPosition = tuple[int, str, str]  # device id, component, metric


@dataclass(frozen=True, slots=True)
class FleetLatestValue:
    """The newest value of a metric of a device's component."""

    device: UUID
    component: str
    metric: str
    value: ReadingValue
    unit: str  # the unit's symbol when it was measured; "" for none
    time: datetime


@dataclass(frozen=True, slots=True)
class FleetPage:
    """A page of values, and the position of the next page; None on the last."""

    values: list[FleetLatestValue]
    end: FleetPosition | None


_METRICS = """
SELECT s.device_id, s.component, s.metric, d.uuid, array_agg(s.id), array_agg(s.unit), array_agg(s.value_type)
FROM telemetry_series s JOIN devices_device d ON d.id = s.device_id
WHERE {conditions} GROUP BY s.device_id, s.component, s.metric, d.uuid
ORDER BY s.device_id, s.component, s.metric LIMIT %(limit)s
"""
_CONDITIONS = {
    "devices": "s.device_id = ANY(%(devices)s)",
    "component": "s.component = %(component)s",
    "metric": "s.metric = %(metric)s",
    "hardware_model": "d.hardware_model_id = %(hardware_model)s",
    "after": "(s.device_id, s.component, s.metric) > (%(device_id)s, %(after_component)s, %(after_metric)s)",
}


def fleet_latest_values(
    *,
    devices: Sequence[int] | None = None,
    component: str | None = None,
    metric: str | None = None,
    hardware_model: int | None = None,
    after: Sequence[Any] | None = None,
    limit: int,
) -> FleetPage:
    """Return the newest value of the next `limit` metrics, by device, component and metric.

    Metrics without readings are left out. Where a metric's unit was changed, the newest over its units.
    """
    wanted: dict[str, Any] = {
        "devices": devices, "component": component, "metric": metric, "hardware_model": hardware_model, "after": after,
    }  # fmt: skip
    conditions = [_CONDITIONS[name] for name, value in wanted.items() if value is not None]
    if after is not None:
        wanted |= dict(zip(("device_id", "after_component", "after_metric"), after, strict=True))
    with connection.cursor() as cursor:
        cursor.execute(_METRICS.format(conditions=" AND ".join(conditions) or "true"), wanted | {"limit": limit + 1})
        rows = cursor.fetchall()
    page = rows[:limit]
    newest = newest_readings(pk for row in page for pk in row[4])
    values = []
    for _device, component, metric, uuid, *columns in page:
        found = [one for one in zip(*columns, strict=True) if one[0] in newest]
        if found:
            pk, unit, kind = max(found, key=lambda one: (newest[one[0]].time, one[0]))
            values.append(
                FleetLatestValue(uuid, component, metric, _value(newest[pk].value, kind), unit, newest[pk].time)
            )
    end = (page[-1][0], page[-1][1], page[-1][2]) if len(rows) > limit else None
    return FleetPage(values, end)


def _value(value: float | str, kind: str) -> ReadingValue:
    return bool(value) if kind == Metric.ValueType.BOOLEAN else value
