"""Aggregates of series by intervals: count, minimum, maximum, sum, mean and last value.

The result equals that of the readings. Whole hours and days that are rolled up are read from the rollups; the rest
(parts of hours at the edges of an interval, late hours, hours that are not rolled up yet) is computed from the
readings, in one statement, so that no reading is counted twice or left out while the rollups advance.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from django.db import connection

from devices.models import Metric
from telemetry.models import Series
from telemetry.services.rollups.aggregation import READING_AGGREGATES, ROLLUP_AGGREGATES, ROLLUP_COLUMNS, hours_sql
from telemetry.services.rollups.packing import numbers_sql
from telemetry.services.work_lock import work_state
from tenants.infrastructure.database import cursor_for_many

Text = Metric.ValueType.TEXT
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# Up to so many spans are queried one by one; beyond it one query reads the enclosing span and filters it.
_MAX_SPANS = 8
_FEW_EDGES = 16

TimeSpan = tuple[datetime, datetime]


# Not frozen: a result has thousands, and a frozen dataclass is three times as expensive to create.
@dataclass(slots=True)
class AggregateBucket:
    """A series in one interval. `min`, `max` and `sum` are None for texts; `sum` also when it is out of range."""

    count: int
    min: float | None
    max: float | None
    sum: float | None
    last: float | str
    last_at: datetime
    # The mean where it is not the quotient: of a converted bucket the converted one, which is rounded once.
    mean: float | None = None

    @property
    def avg(self) -> float | None:
        """Return the mean; for booleans the share of true."""
        if self.mean is not None:
            return self.mean
        return None if self.sum is None else self.sum / self.count


SeriesBuckets = dict[int, dict[int, AggregateBucket]]


@dataclass(frozen=True, slots=True)
class Aggregates:
    """Series id → number of the interval → values; and the earliest time read from readings and from rollups."""

    buckets: SeriesBuckets
    raw_from: datetime | None
    rolled_from: datetime | None


@dataclass(slots=True)
class ReadPlan:
    """The source of each part of a range: daily rollups, hourly rollups or readings."""

    days: list[TimeSpan] = field(default_factory=list)
    hours: list[TimeSpan] = field(default_factory=list)
    raw: list[TimeSpan] = field(default_factory=list)


def read_plan(series: Sequence[Series], edges: Sequence[datetime], start: datetime, stop: datetime) -> ReadPlan:
    """Return the sources of a range that is cut at the edges; one or two queries."""
    cuts = [start, *(edge for edge in edges if start < edge < stop), stop]
    rolled_until = _rolled_until(cuts)
    if rolled_until is not None:
        with_days = _plan_of_cuts(cuts, rolled_until, _late_days(series, start, rolled_until))
        if len(with_days.hours) <= _MAX_SPANS:
            return with_days
    return _plan_of_cuts(cuts, None, frozenset())


def aggregate(
    series: Sequence[Series], edges: Sequence[datetime], start: datetime, stop: datetime, *, raw_only: bool = False
) -> Aggregates:
    """Return the aggregates between the edges (UTC, ascending) of readings with start ≤ time < stop.

    Intervals without readings are left out. `raw_only` reads no rollups.
    """
    of_numbers = [one for one in series if one.value_type != Text]
    of_texts = [one.pk for one in series if one.value_type == Text]
    parts = (
        ReadPlan(raw=[(start, stop)])
        if raw_only
        else read_plan(of_numbers, edges, start, stop)
        if of_numbers
        else ReadPlan()
    )
    found: SeriesBuckets = {one.pk: {} for one in series}
    with cursor_for_many() as cursor:
        if of_numbers:
            cursor.execute(*_numbers_statement([one.pk for one in of_numbers], edges, parts))
            for pk, bucket, *values in cursor.fetchall():
                found[pk][bucket - 1] = AggregateBucket(*values)
        if of_texts:
            wanted: dict[str, Any] = {"series": of_texts, "start": start, "stop": stop}
            cursor.execute(with_edges(edges, wanted) + _TEXTS_STATEMENT, wanted)
            for pk, bucket, count, last, last_at in cursor.fetchall():
                found[pk][bucket - 1] = AggregateBucket(count, None, None, None, last, last_at)
    rolled = [runs[0][0] for runs in (parts.days, parts.hours) if runs and of_numbers]
    raw = [start] if of_texts else [runs[0][0] for runs in (parts.raw,) if runs]
    return Aggregates(found, min(raw, default=None), min(rolled, default=None))


# --- from where -----------------------------------------------------------------------------------------------


def _rolled_until(cuts: Sequence[datetime]) -> datetime | None:
    """Until when there are daily rollups, where a whole day lies between two of the cuts."""
    # The lengths first: there are as many cuts as hours in a month, and more.
    long = ((earlier, later) for earlier, later in pairwise(cuts) if later - earlier >= DAY)
    if any(_floor(later, DAY) - _ceil(earlier, DAY) >= DAY for earlier, later in long):
        return work_state().rolled_until
    return None


def _late_days(series: Sequence[Series], start: datetime, stop: datetime) -> frozenset[datetime]:
    """Days to which something came late that is not rolled up yet. What comes from now on is after this answer."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT date_trunc('day', hour, 'UTC') FROM telemetry_latehour"
            " WHERE device_id = ANY(%s) AND hour >= %s AND hour < %s",
            [sorted({one.device_id for one in series}), start - DAY, stop],
        )
        return frozenset(day for (day,) in cursor.fetchall())


def _plan_of_cuts(cuts: Sequence[datetime], days_until: datetime | None, late: frozenset[datetime]) -> ReadPlan:
    if days_until is None and all(map(_is_on_hour, cuts[1:-1])):
        return _plan_of_hours(cuts[0], cuts[-1])
    made = ReadPlan()
    for earlier, later in pairwise(cuts):
        first, last = _ceil(earlier, HOUR), _floor(later, HOUR)
        if first == earlier and last == later and last - first < DAY:  # many hours, one by one
            _add(made.hours, first, last)
            continue
        if first >= last:
            _add(made.raw, earlier, later)
            continue
        _add(made.raw, earlier, first)
        for begin, end in _whole_days(first, last, days_until, late):
            _add(made.hours, first, begin)
            _add(made.days, begin, end)
            first = end
        _add(made.hours, first, last)
        _add(made.raw, last, later)
    return made


def _plan_of_hours(start: datetime, stop: datetime) -> ReadPlan:
    """The plan of a range that is cut on whole hours only, of which charts have hundreds."""
    made, first, last = ReadPlan(), _ceil(start, HOUR), _floor(stop, HOUR)
    _add(made.hours, first, last)
    for begin, end in [(start, first), (last, stop)] if first <= last else [(start, stop)]:
        _add(made.raw, begin, end)
    return made


def _whole_days(
    first: datetime, last: datetime, until: datetime | None, late: frozenset[datetime]
) -> Iterator[TimeSpan]:
    """The whole days in a stretch that are rolled up, without those to which something came late."""
    if until is None:
        return
    begin, end = _ceil(first, DAY), min(_floor(last, DAY), _floor(until, DAY))
    for day in sorted(day for day in late if begin <= day < end):
        if begin < day:
            yield begin, day
        begin = day + DAY
    if begin < end:
        yield begin, end


def _add(runs: list[TimeSpan], begin: datetime, end: datetime) -> None:
    """Append a run, or make the last one longer by it."""
    if begin >= end:
        return
    if runs and runs[-1][1] == begin:
        begin = runs.pop()[0]
    runs.append((begin, end))


def _is_on_hour(time: datetime) -> bool:
    return not (time.minute or time.second or time.microsecond)


def _floor(time: datetime, step: timedelta) -> datetime:
    if step is HOUR:
        return time if _is_on_hour(time) else time.replace(minute=0, second=0, microsecond=0)
    midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (time - midnight) // step * step


def _ceil(time: datetime, step: timedelta) -> datetime:
    below = _floor(time, step)
    return below if below == time else below + step


# --- the statements -------------------------------------------------------------------------------------------

_WHICH = "= ANY(%(series)s)"
_TEXTS_STATEMENT = f"""
SELECT DISTINCT ON (series_id, bucket) series_id, bucket, count(*) OVER (PARTITION BY series_id, bucket), text, time
FROM (
    SELECT series_id, time, text, width_bucket(time, (SELECT edges FROM e)) AS bucket FROM telemetry_reading
    WHERE series_id {_WHICH} AND text IS NOT NULL AND time >= %(start)s AND time < %(stop)s
) AS readings ORDER BY series_id, bucket, time DESC, text COLLATE "C" DESC
"""  # noqa: S608 (constants)


def _numbers_statement(series: list[int], edges: Sequence[datetime], parts: ReadPlan) -> tuple[str, dict[str, Any]]:
    """The statement of a plan, and its parameters."""
    begin, sources, wanted = plan_sql(series, edges, parts)
    return (
        f"{begin} SELECT series_id, bucket, {ROLLUP_AGGREGATES}"  # noqa: S608
        f" FROM {sources} AS parts GROUP BY series_id, bucket ORDER BY series_id, bucket",
        wanted,
    )


def plan_sql(series: list[int], edges: Sequence[datetime], parts: ReadPlan) -> tuple[str, str, dict[str, Any]]:
    """Return a statement's beginning, SQL of the aggregates of each part of a plan, and the parameters.

    The SQL is a subquery in brackets: `(series_id, bucket, count, min, max, sum, last, last_at)`, for one series and
    bucket with a row of each source; buckets are counted from 1.
    """
    wanted: dict[str, Any] = {"series": series}
    raw, end = parts.raw, None
    if 0 < len(parts.hours) <= _MAX_SPANS and raw and _is_part_of_hour(parts.hours[-1], raw[-1], edges):
        raw, end = raw[:-1], raw[-1][1]
    sources = [*_from_days(parts.days, wanted), *_from_hours(parts.hours, end, wanted), *_from_readings(raw, wanted)]
    return with_edges(edges, wanted), f"({' UNION ALL '.join(sources)})", wanted


def _is_part_of_hour(hours: TimeSpan, raw: TimeSpan, edges: Sequence[datetime]) -> bool:
    """Whether the readings are those of the part of an hour that comes after the hours, and of one stretch."""
    begin, end = raw
    return begin == hours[1] and end - begin < HOUR and not any(begin < edge < end for edge in edges[-2:])


def with_edges(edges: Sequence[datetime], wanted: dict[str, Any]) -> str:
    """Return the beginning of a statement in which the edges are `e.edges`; adds its parameters.

    Edges that are all as far apart, as those of hours mostly are, are made by PostgreSQL: to write and to read hundreds
    of times takes as long as the answer.
    """
    step = edges[1] - edges[0]
    if len(edges) > _FEW_EDGES and all(later - earlier == step for earlier, later in pairwise(edges)):
        wanted |= {"first_edge": edges[0], "last_edge": edges[-1], "step": step.total_seconds()}
        made = "generate_series(%(first_edge)s::timestamptz, %(last_edge)s, make_interval(secs => %(step)s))"
        return f"WITH e AS MATERIALIZED (SELECT ARRAY(SELECT {made}) AS edges)"
    # As PostgreSQL writes an array: the driver takes many times as long for hundreds of times.
    wanted["edges"] = f"{{{','.join([edge.isoformat() for edge in edges])}}}"
    return "WITH e AS MATERIALIZED (SELECT %(edges)s::timestamptz[] AS edges)"


def bucket_sql(time: str) -> str:
    """Return SQL of the number of the interval in which a time is, counted from 1."""
    return f"width_bucket({time}, (SELECT edges FROM e)) AS bucket"  # noqa: S608 (constants)


def _from_days(runs: Sequence[TimeSpan], wanted: dict[str, Any]) -> Iterable[str]:
    for number, run in enumerate(runs[:1] if len(runs) > _MAX_SPANS else runs):
        begin, end = _bounds(runs if len(runs) > _MAX_SPANS else [run], f"days{number}", wanted)
        within = _in_spans(runs, "day", "days", wanted)
        yield f"""SELECT series_id, {bucket_sql("day")}, {ROLLUP_COLUMNS} FROM telemetry_readingday
            WHERE series_id {_WHICH} AND day >= {begin} AND day < {end} {within}"""  # noqa: S608


def _from_hours(runs: Sequence[TimeSpan], end: datetime | None, wanted: dict[str, Any]) -> Iterable[str]:
    """The hours; `end` is where the part of an hour ends that comes after the last of them."""
    for number, run in enumerate(runs[:1] if len(runs) > _MAX_SPANS else runs):
        begin, stop = _bounds(runs if len(runs) > _MAX_SPANS else [run], f"hours{number}", wanted)
        part = None
        if end is not None and run is runs[-1]:
            wanted["end"], part = end, "%(end)s::timestamptz"
        within = _in_spans(runs, "h.hour", "hours", wanted)
        yield f"""SELECT h.series_id, {bucket_sql("h.hour")}, {ROLLUP_COLUMNS}
            FROM {hours_sql(_WHICH, begin, stop, part)} h
            WHERE true {within}"""  # noqa: S608


def _from_readings(runs: Sequence[TimeSpan], wanted: dict[str, Any]) -> Iterable[str]:
    if len(runs) > _MAX_SPANS:
        begins, ends = ([run[side] for run in runs] for side in (0, 1))
        wanted |= {"raw_begins": begins, "raw_ends": ends}
        yield f"""SELECT n.series_id, {bucket_sql("n.time")}, {READING_AGGREGATES}
            FROM unnest(%(raw_begins)s::timestamptz[], %(raw_ends)s::timestamptz[]) AS run(start, stop)
            CROSS JOIN LATERAL {numbers_sql(_WHICH, "run.start", "run.stop")} n GROUP BY 1, 2"""  # noqa: S608
        return
    for number, run in enumerate(runs):
        begin, end = _bounds([run], f"raw{number}", wanted)
        yield f"""SELECT n.series_id, {bucket_sql("n.time")}, {READING_AGGREGATES}
            FROM {numbers_sql(_WHICH, begin, end)} n GROUP BY 1, 2"""  # noqa: S608


def _bounds(runs: Sequence[TimeSpan], name: str, wanted: dict[str, Any]) -> tuple[str, str]:
    wanted |= {f"{name}_start": runs[0][0], f"{name}_stop": runs[-1][1]}
    return f"%({name}_start)s::timestamptz", f"%({name}_stop)s::timestamptz"


def _in_spans(runs: Sequence[TimeSpan], time: str, name: str, wanted: dict[str, Any]) -> str:
    """The condition that a time is in one of many runs: after an odd number of their ends."""
    if len(runs) <= _MAX_SPANS:
        return ""
    wanted[f"{name}_runs"] = [end for run in runs for end in run]
    return f"AND width_bucket({time}, %({name}_runs)s::timestamptz[]) %% 2 = 1"
