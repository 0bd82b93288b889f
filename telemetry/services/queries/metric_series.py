"""Metrics of components with their series, by filters: the order of lists over many devices."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from telemetry.models import Series


@dataclass(frozen=True, slots=True)
class SeriesFilter:
    """The selected series; None selects all. Devices and hardware models are ids, component types keys."""

    devices: Sequence[int] | None = None
    components: Sequence[str] | None = None
    metrics: Sequence[str] | None = None
    component_types: Sequence[str] | None = None
    hardware_models: Sequence[int] | None = None


class MetricKey(NamedTuple):
    """A metric of a component of a device, by the device's id: the order of the pages."""

    device_id: int
    component: str
    metric: str


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """A metric, its device's UUID and its series, one for each unit and value type."""

    key: MetricKey
    device: UUID
    series: list[Series]


_METRICS = """
SELECT s.device_id, s.component, s.metric, d.uuid, array_agg(s.id ORDER BY s.id), array_agg(s.unit ORDER BY s.id),
    array_agg(s.value_type ORDER BY s.id)
FROM telemetry_series s JOIN devices_device d ON d.id = s.device_id
WHERE {conditions} GROUP BY s.device_id, s.component, s.metric, d.uuid
ORDER BY s.device_id, s.component, s.metric LIMIT %(metrics_limit)s
"""
_CONDITIONS = {
    "devices": "s.device_id = ANY(%(devices)s)",
    "components": "s.component = ANY(%(components)s)",
    "metrics": "s.metric = ANY(%(metrics)s)",
    "component_types": """EXISTS (
        SELECT 1 FROM devices_component c JOIN devices_componenttype t ON t.id = c.component_type_id
        WHERE c.device_id = s.device_id AND c.key = s.component AND t.key = ANY(%(component_types)s))""",
    "hardware_models": "d.hardware_model_id = ANY(%(hardware_models)s)",
}
_SAME = "(s.device_id, s.component, s.metric) = (%(device_id)s, %(component)s, %(metric)s)"
_AFTER = "(s.device_id, s.component, s.metric) > (%(device_id)s, %(component)s, %(metric)s)"


def metric_series(
    selection: SeriesFilter, *, only: MetricKey | None = None, after: MetricKey | None = None, limit: int
) -> Iterator[MetricSeries]:
    """Yield the next selected metrics, by device, component and metric: one of them only, or those after a key."""
    wanted: dict[str, Any] = {name: value for name, value in asdict(selection).items() if value is not None}
    conditions = [_CONDITIONS[name] for name in wanted]
    if (key := only or after) is not None:
        conditions.append(_SAME if only else _AFTER)
        wanted |= key._asdict()
    with connection.cursor() as cursor:
        cursor.execute(
            _METRICS.format(conditions=" AND ".join(conditions) or "true"), wanted | {"metrics_limit": limit}
        )
        rows = cursor.fetchall()
    for device_id, component, metric, uuid, *columns in rows:
        series = [
            Series(pk=pk, device_id=device_id, component=component, metric=metric, unit=unit, value_type=kind)
            for pk, unit, kind in zip(*columns, strict=True)
        ]
        yield MetricSeries(MetricKey(device_id, component, metric), uuid, series)
