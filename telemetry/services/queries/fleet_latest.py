"""The newest values of all of a tenant's devices, page by page."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from devices.models import Metric
from telemetry.services.latest.values import newest_readings

from .metric_series import MetricKey, SeriesFilter, metric_series
from .readings import ReadingValue


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
    end: MetricKey | None


def fleet_latest_values(selection: SeriesFilter, *, after: MetricKey | None = None, limit: int) -> FleetPage:
    """Return the newest value of the next `limit` selected metrics, by device, component and metric.

    Metrics without readings are left out. Where a metric's unit was changed, the newest over its units.
    """
    metrics = list(metric_series(selection, after=after, limit=limit + 1))
    page = metrics[:limit]
    newest = newest_readings(series.pk for one in page for series in one.series)
    values = []
    for one in page:
        found = [series for series in one.series if series.pk in newest]
        if found:
            series = max(found, key=lambda series: (newest[series.pk].time, series.pk))
            reading = newest[series.pk]
            value = _value(reading.value, series.value_type)
            values.append(
                FleetLatestValue(one.device, one.key.component, one.key.metric, value, series.unit, reading.time)
            )
    return FleetPage(values, page[-1].key if len(metrics) > limit else None)


def _value(value: float | str, kind: str) -> ReadingValue:
    return bool(value) if kind == Metric.ValueType.BOOLEAN else value
