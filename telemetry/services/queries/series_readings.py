"""The readings of many series, page by page: metric after metric, each in order of time.

A page reads the metrics in groups. The first group is small, and each one is as large as those before it suggest, so
that a page reads little more than it returns, whether a metric has one reading in the range or thousands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from devices.models import Metric
from tenants.infrastructure.database import cursor_for_many

from .metric_series import MetricKey, MetricSeries, SeriesFilter, metric_series
from .readings import ORDERED_TEXTS, ReadingPosition, ReadingRow, ordered_numbers_sql, reading_row, readings

_FIRST_GROUP = 4
_LARGEST_GROUP = 256
_GROWTH = 4
# A page ends after so many metrics, even where they have no readings in the range.
MAX_METRICS = 1000


@dataclass(frozen=True, slots=True)
class SeriesPosition:
    """Where a page ended: behind a reading of the metric, or without one behind all of the metric."""

    key: MetricKey
    reading: ReadingPosition | None = None


@dataclass(frozen=True, slots=True)
class SeriesReading:
    """A reading with its names."""

    device: UUID
    component: str
    metric: str
    row: ReadingRow


@dataclass(frozen=True, slots=True)
class SeriesPage:
    """A page of readings, and the position of the next page; None on the last. A page may be shorter than its limit."""

    readings: list[SeriesReading]
    end: SeriesPosition | None


_Found = tuple[MetricSeries, ReadingRow]


def series_readings(
    selection: SeriesFilter,
    *,
    start: datetime | None = None,
    stop: datetime | None = None,
    after: SeriesPosition | None = None,
    limit: int,
) -> SeriesPage:
    """Return at most `limit` readings with start ≤ time < stop, after a position.

    By device, component and metric; the readings of a metric by time, series and value, as `readings` returns them.
    """
    key = None if after is None else after.key
    found = _rest_of_metric(selection, after, start, stop, limit + 1)
    examined, size = 0, _FIRST_GROUP
    while len(found) <= limit and examined < MAX_METRICS:
        group = list(metric_series(selection, after=key, limit=min(size, MAX_METRICS - examined)))
        if not group:
            return SeriesPage([_named(*one) for one in found], None)
        rows = _read_group(group, start, stop, limit + 1 - len(found))
        found += rows
        examined, key = examined + len(group), group[-1].key
        size = _next_size(len(group), len(rows), limit + 1 - len(found))
    end = SeriesPosition(key) if key is not None else None
    if len(found) > limit:
        last, row = found[limit - 1]
        end = SeriesPosition(last.key, ReadingPosition(row.time, row.series, row.key))
    return SeriesPage([_named(*one) for one in found[:limit]], end)


def _rest_of_metric(
    selection: SeriesFilter, after: SeriesPosition | None, start: datetime | None, stop: datetime | None, limit: int
) -> list[_Found]:
    """Return the readings of the position's metric that come after it."""
    if after is None or after.reading is None:
        return []
    return [
        (one, row)
        for one in metric_series(selection, only=after.key, limit=1)
        for row in readings(one.series, start=start, stop=stop, after=after.reading, limit=limit)
    ]


def _next_size(size: int, rows: int, room: int) -> int:
    """Return how many metrics to read after a group of `size` with so many rows: those that may fill the room."""
    return max(1, min(_LARGEST_GROUP, size * _GROWTH, room * size // max(rows, 1)))


# The first rows of each series; then those of all in order. Distinct: what came again after its day was packed is in
# two places.
_GROUP = """
SELECT DISTINCT ON (number, time, series, value, hash) number, series, time, value, text, hash FROM (
    SELECT s.number, s.id AS series, n.time, n.value, NULL::text AS text, NULL::text AS hash
    FROM unnest(%(numbers)s::bigint[], %(of_numbers)s::int[]) AS s(id, number) CROSS JOIN LATERAL {numbers} n
    UNION ALL
    SELECT s.number, t.series, t.time, t.value, t.text, t.hash
    FROM unnest(%(texts)s::bigint[], %(of_texts)s::int[]) AS s(id, number) CROSS JOIN LATERAL {texts} t
) AS page ORDER BY number, time, series, value, hash LIMIT %(limit)s
"""


def _read_group(
    group: Sequence[MetricSeries], start: datetime | None, stop: datetime | None, limit: int
) -> list[_Found]:
    """Return the first readings of a group of metrics, one metric after the other."""
    by_id = {series.pk: series for one in group for series in one.series}
    wanted: dict[str, Any] = {"start": start, "stop": stop, "limit": limit}
    for name, is_text in (("numbers", False), ("texts", True)):
        pairs = [
            (series.pk, number)
            for number, one in enumerate(group)
            for series in one.series
            if (series.value_type == Metric.ValueType.TEXT) is is_text
        ]
        wanted |= {name: [pk for pk, _ in pairs], f"of_{name}": [number for _, number in pairs]}
    bounds = " ".join(
        bound for bound, time in (("AND time >= %(start)s", start), ("AND time < %(stop)s", stop)) if time is not None
    )
    first, last = ("%(start)s" if start else "'-infinity'"), ("%(stop)s" if stop else "'infinity'")
    statement = _GROUP.format(
        numbers=ordered_numbers_sql("s.id", bounds, first, last, "%(limit)s"),
        texts=ORDERED_TEXTS.format(series="s.id", bounds=bounds),
    )
    with cursor_for_many() as cursor:
        cursor.execute(statement, wanted)
        rows = cursor.fetchall()
    return [
        (group[number], reading_row(time, by_id[pk], value, text, hash_))
        for number, pk, time, value, text, hash_ in rows
    ]


def _named(one: MetricSeries, row: ReadingRow) -> SeriesReading:
    return SeriesReading(one.device, one.key.component, one.key.metric, row)
