"""The lines of a device's last day, thinned out for drawing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection

from devices.models import Device, Metric
from telemetry.models import Series

from .packing import numbers

DAY = timedelta(days=1)
_POINTS = 288  # five minutes each over a whole day
_MOST_CHARTS = 24
# A silence longer than this many points (and this long) is shown as a gap, not as a line across it.
_GAP_POINTS = 6
_GAP_SECONDS = 60

_NUMBERS = numbers("= ANY(%(series)s)", "%(start)s", "%(stop)s")
_OLDEST = f"""
SELECT min(r.time) FROM unnest(%(series)s::bigint[]) AS s(id) CROSS JOIN LATERAL (
    SELECT time FROM {numbers("= s.id", "%(start)s", "%(stop)s")} n ORDER BY time LIMIT 1
) AS r
"""  # noqa: S608 (constants)
_MEANS = f"""
SELECT series_id, avg(value),
    extract(epoch FROM date_bin(make_interval(secs => %(seconds)s), time, %(start)s))::float8 AS bin
FROM {_NUMBERS} n GROUP BY series_id, bin ORDER BY series_id, bin
"""  # noqa: S608
_AFTER = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Chart:
    """One line: Unix times in seconds, and the mean value at each (None: nothing came for a while)."""

    series: Series
    start: float
    stop: float
    times: list[float] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)


def last_day(device: Device, now: datetime) -> list[Chart]:
    """A chart for each series of numbers that has readings in the 24 hours before `now`; three queries at most.

    The charts begin at the oldest reading shown, so that a device of ten minutes fills its charts too.
    """
    numbers = device.series.filter(value_type=Metric.ValueType.NUMBER).order_by("component", "metric", "id")
    listed = {one.pk: one for one in numbers[:_MOST_CHARTS]}
    start = _oldest(list(listed), now - DAY, now)
    if start is None:
        return []
    width = max(timedelta(seconds=1), (now - start) / _POINTS)
    charts = {pk: Chart(one, start.timestamp(), now.timestamp()) for pk, one in listed.items()}
    for pk, mean, at in _means(list(listed), start, now, width):
        _add(charts[pk], at, mean, gap=max(_GAP_SECONDS, _GAP_POINTS * width.total_seconds()))
    return [chart for chart in charts.values() if chart.times]


def _add(chart: Chart, at: float, mean: float, *, gap: float) -> None:
    if chart.times and at - chart.times[-1] > gap:
        chart.times.append((at + chart.times[-1]) / 2)
        chart.values.append(None)
    chart.times.append(at)
    chart.values.append(mean)


def _oldest(series: Sequence[int], start: datetime, stop: datetime) -> datetime | None:
    if not series:
        return None
    with connection.cursor() as cursor:
        cursor.execute(_OLDEST, {"series": list(series), "start": start, "stop": stop + _AFTER})
        return cursor.fetchone()[0]


def _means(series: Sequence[int], start: datetime, stop: datetime, width: timedelta) -> list[tuple[int, float, float]]:
    with connection.cursor() as cursor:
        cursor.execute(
            _MEANS, {"series": list(series), "start": start, "stop": stop + _AFTER, "seconds": width.total_seconds()}
        )
        return cursor.fetchall()
