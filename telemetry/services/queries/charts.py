"""Lines of series over a range of time, reduced to few points with the same shape.

A series with few readings keeps them all. For longer ones the part of the range that has readings is cut into buckets,
half as many as points are requested. The database returns the first, last, minimum and maximum of each half of a
bucket, and `downsampling.choose_points` selects from those: the minimum and the maximum of every bucket stay, and
memory is bounded for any range. Where reading them is too expensive, or retention has dropped them, the minimum and
maximum of each hour replace them; an hour is in the bucket in which it begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

from django.db import connection

from devices.models import Device, Metric
from telemetry.models import Series
from telemetry.services.rollups.aggregation import HOUR, hour_of, hours_sql
from telemetry.services.rollups.packing import numbers_sql
from telemetry.services.work_lock import work_state

from .downsampling import Candidate, Point, bucket_count, choose_points

# The most readings of all series together that are read themselves.
MAX_READINGS = 300_000
# A silence longer than this many points (and this long), and unusual for the series, is a gap and no line.
_SILENCE_POINTS = 6
_SILENCE_FACTOR = 4
_SILENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """One series: points (Unix time in seconds, value) in order of time, and the silences in it.

    `resolution` is by how many seconds a point's time may be off: 0 where all points are readings.
    """

    series: Series
    points: list[Point] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    resolution: float = 0.0


_WHICH = "= ANY(%(series)s)"
_SHORT_SERIES = f"""
SELECT s.id, date_part('epoch', r.time), r.value FROM unnest(%(series)s::bigint[]) AS s(id) CROSS JOIN LATERAL (
    SELECT time, value FROM {numbers_sql("= s.id", "%(start)s::timestamptz", "%(stop)s::timestamptz")} n LIMIT %(limit)s
) AS r
"""  # noqa: S608 (constants)
_COUNTS = f"""
SELECT coalesce(sum(count), 0) FROM {hours_sql(_WHICH, "%(start)s::timestamptz", "%(stop)s::timestamptz")} h
"""  # noqa: S608
_READINGS = f"""(
    SELECT series_id, time, time AS bucket_time, value
    FROM {numbers_sql(_WHICH, "%(start)s::timestamptz", "%(stop)s::timestamptz")} n
)"""  # noqa: S608
# An hour's last value is where it was measured, and another extreme somewhere in the hour before it.
_EXTREMES = f"""(
    SELECT h.series_id, e.time, h.hour AS bucket_time, e.value
    FROM {hours_sql(_WHICH, "%(start)s::timestamptz", "%(stop)s::timestamptz")} h CROSS JOIN LATERAL (VALUES
        (CASE WHEN min = last THEN last_at ELSE hour + (last_at - hour) / 3 END, min),
        (CASE WHEN max = last THEN last_at ELSE hour + (last_at - hour) / 3 * 2 END, max)
    ) AS e(time, value)
)"""  # noqa: S608
_OUTLINE = """
SELECT series_id, part, min(ARRAY[at, value]), max(ARRAY[at, value]), min(ARRAY[value, at]), max(ARRAY[value, -at])
FROM (
    SELECT series_id, date_part('epoch', time) AS at, value,
        least(greatest(floor((date_part('epoch', bucket_time) - %(begin)s) / %(width)s), 0), %(last)s)::int AS part
    FROM {points} p
) AS points GROUP BY series_id, part
"""
_PARTS = 2  # of a bucket
# Of packed readings to the day, of rollups to the hour.
_EXTENT = """
SELECT min(part.first), max(part.last) FROM unnest(%(series)s::bigint[]) AS s(id) CROSS JOIN LATERAL (
    (SELECT min(time) AS first, max(time) + interval '1 microsecond' AS last FROM telemetry_reading
        WHERE series_id = s.id AND text IS NULL AND time >= %(start)s AND time < %(stop)s)
    UNION ALL
    (SELECT min(day), max(day) + interval '24 hours' FROM telemetry_packedday
        WHERE series_id = s.id AND day > %(start)s::timestamptz - interval '24 hours' AND day < %(stop)s)
    UNION ALL
    (SELECT min(hour), max(hour) + interval '1 hour' FROM telemetry_readinghour
        WHERE series_id = s.id AND hour > %(start)s::timestamptz - interval '1 hour' AND hour < %(stop)s)
) AS part
"""


def series_lines(series: Sequence[Series], start: datetime, stop: datetime, most: int) -> list[SeriesLine]:
    """Return a line of at most `most` (3 or more) points for each series with numbers or booleans in the range.

    Texts, and series without readings in start ≤ time < stop, are left out.
    """
    by_id = {one.pk: one for one in series if one.value_type != Metric.ValueType.TEXT}
    if not by_id or start >= stop:
        return []
    found = _read_short_series(list(by_id), start, stop, most)
    chosen = dict(found)
    many = [pk for pk, points in found.items() if len(points) > most]
    resolution = dict.fromkeys(by_id, 0.0)
    if gone := _is_dropped(start):
        many = list(by_id)
    if many:
        extent = extent_of(many, start, stop)
        by_hours = gone or _is_too_expensive(many, *extent, most)
        for pk, candidates in _outline(many, *extent, bucket_count(most), by_hours=by_hours).items():
            found[pk] = [point for _, point in candidates]
            chosen[pk] = choose_points(candidates, most)
        resolution |= dict.fromkeys(many, HOUR.total_seconds() if by_hours else 0.0)
    silence = max(_SILENCE_SECONDS, _SILENCE_POINTS * (stop - start).total_seconds() / most)
    return [
        SeriesLine(one, chosen[pk], _silences(found[pk], silence), resolution[pk])
        for pk, one in by_id.items()
        if found.get(pk)
    ]


def extent_of(series: list[int], start: datetime, stop: datetime) -> tuple[datetime, datetime]:
    """Return the part of a range that has readings or rollups of the series, which is cut into buckets."""
    with connection.cursor() as cursor:
        cursor.execute(_EXTENT, {"series": series, "start": start, "stop": stop})
        first, last = cursor.fetchone()
    if first is None:
        return start, stop
    return max(start, first.astimezone(UTC)), min(stop, last.astimezone(UTC))


def _read_short_series(series: list[int], start: datetime, stop: datetime, most: int) -> dict[int, list[Point]]:
    """All readings of the series that have few, in order; of the others one more than `most`, whichever."""
    found: dict[int, list[Point]] = {pk: [] for pk in series}
    with connection.cursor() as cursor:
        cursor.execute(_SHORT_SERIES, {"series": series, "start": start, "stop": stop, "limit": most + 1})
        for pk, at, value in cursor.fetchall():
            found[pk].append((at, value))
    for points in found.values():
        points.sort()
    return found


def _is_dropped(start: datetime) -> bool:
    """Whether readings of the range are no longer kept."""
    kept = work_state().readings_from
    return kept is not None and start < kept


def _is_too_expensive(series: list[int], start: datetime, stop: datetime, most: int) -> bool:
    """Whether hours should stand for the readings: they are many, and the hours are enough for a picture."""
    if (stop - start) / HOUR * 4 < most:
        return False
    with connection.cursor() as cursor:
        cursor.execute(_COUNTS, {"series": series, "start": hour_of(start), "stop": stop})
        return int(cursor.fetchone()[0]) > MAX_READINGS


def _outline(
    series: list[int], start: datetime, stop: datetime, buckets: int, *, by_hours: bool
) -> dict[int, list[Candidate]]:
    """The first, last, least and greatest of each part of each bucket, in order of time."""
    width = (stop - start).total_seconds() / (buckets * _PARTS)
    begin, end = (hour_of(start), _next_hour(stop)) if by_hours else (start, stop)
    wanted: dict[str, Any] = {"series": series, "start": begin, "stop": end}
    wanted |= {"begin": start.timestamp(), "width": width, "last": buckets * _PARTS - 1}
    found: dict[int, set[Candidate]] = {pk: set() for pk in series}
    with connection.cursor() as cursor:
        cursor.execute(_OUTLINE.format(points=_EXTREMES if by_hours else _READINGS), wanted)
        for pk, part, first, last, least, greatest in cursor.fetchall():
            points = {tuple(first), tuple(last), (least[1], least[0]), (-greatest[1], greatest[0])}
            found[pk] |= {(part // _PARTS, point) for point in points}
    return {pk: sorted(candidates) for pk, candidates in found.items()}


def _next_hour(time: datetime) -> datetime:
    return hour_of(time + HOUR - timedelta(microseconds=1))


def _silences(points: Sequence[Point], silence: float) -> list[tuple[float, float]]:
    if len(points) < 2:
        return []
    usual = median(later[0] - earlier[0] for earlier, later in pairwise(points))
    longest = max(silence, _SILENCE_FACTOR * usual)
    return [(earlier[0], later[0]) for earlier, later in pairwise(points) if later[0] - earlier[0] > longest]


# --- a device's page ------------------------------------------------------------------------------------------

DAY = timedelta(days=1)
_POINTS = 300
_MAX_CHARTS = 24


@dataclass(frozen=True, slots=True)
class DeviceChart:
    """One line for drawing: Unix times in seconds, and the value at each (None: nothing came for a while)."""

    series: Series
    start: float
    stop: float
    times: list[float]
    values: list[float | None]


def device_charts(device: Device, now: datetime, span: timedelta = DAY) -> list[DeviceChart]:
    """Return a chart for each series of numbers with readings in the span before `now`.

    The charts begin at the first reading, so that those of a new device are filled too.
    """
    listed = device.series.filter(value_type=Metric.ValueType.NUMBER).order_by("component", "metric", "id")
    found = series_lines(list(listed[:_MAX_CHARTS]), now - span, now + timedelta(microseconds=1), _POINTS)
    start = min((line.points[0][0] for line in found), default=0.0)
    return [_chart(line, start, now.timestamp()) for line in found]


def _chart(line: SeriesLine, start: float, stop: float) -> DeviceChart:
    """The line, with nothing in the middle of each gap."""
    marked: list[tuple[float, float | None]] = list(line.points)
    marked += [((earlier + later) / 2, None) for earlier, later in line.gaps]
    marked.sort(key=lambda point: point[0])
    return DeviceChart(line.series, start, stop, [at for at, _ in marked], [value for _, value in marked])
