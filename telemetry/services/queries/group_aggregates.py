"""Aggregates over the readings of groups of series, by intervals.

Count, minimum, maximum and sum come from the same sources as those of single series, and equal those of the readings.
Percentiles cannot be computed from rollups: they are read from the readings themselves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from telemetry.models import Series
from telemetry.services.rollups.aggregation import ROLLUP_AGGREGATES
from telemetry.services.rollups.packing import numbers_sql
from tenants.infrastructure.database import cursor_for_many

from .aggregates import AggregateBucket, ReadPlan, bucket_sql, plan_sql, read_plan, with_edges
from .interpolation import InterpolatedAggregate, interpolation_sql


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A series of numbers or booleans in a group; it can be in several. `factor` and `offset` are for percentiles."""

    group: int
    series: Series
    factor: float = 1.0
    offset: float = 0.0


GroupBuckets = dict[int, dict[int, AggregateBucket]]


@dataclass(frozen=True, slots=True)
class GroupAggregates:
    """Group → number of the interval → values, and the plan by which they were read."""

    buckets: GroupBuckets
    plan: ReadPlan


_MEMBERS = """members AS MATERIALIZED (
    SELECT * FROM unnest(%(member_series)s::bigint[], %(member_groups)s::int[], %(factors)s::float8[],
        %(offsets)s::float8[]) AS m(series_id, number, factor, shift)
)"""
# A number that changes its unit; any other one stays as it is, to the last bit.
_CONVERTED = "CASE WHEN factor = 1 AND shift = 0 THEN value ELSE value * factor + shift END"


def group_aggregates(
    members: Sequence[GroupMember], edges: Sequence[datetime], start: datetime, stop: datetime
) -> GroupAggregates:
    """Return the aggregates between the edges (UTC, ascending) of the groups' readings with start ≤ time < stop.

    Intervals without readings are left out. All series of a group must have one unit.
    """
    found: GroupBuckets = {member.group: {} for member in members}
    if not members:
        return GroupAggregates(found, ReadPlan())
    series = _series_of(members)
    plan = read_plan(series, edges, start, stop)
    begin, sources, wanted = plan_sql([one.pk for one in series], edges, plan)
    statement = f"""{begin}, {_MEMBERS} SELECT number, bucket, {ROLLUP_AGGREGATES}
        FROM {sources} AS parts JOIN members USING (series_id) GROUP BY number, bucket ORDER BY number, bucket"""  # noqa: S608
    with cursor_for_many() as cursor:
        cursor.execute(statement, wanted | _parameters_of(members))
        for group, bucket, *values in cursor.fetchall():
            found[group][bucket - 1] = AggregateBucket(*values)
    return GroupAggregates(found, plan)


def group_percentiles(
    members: Sequence[GroupMember],
    edges: Sequence[datetime],
    start: datetime,
    stop: datetime,
    percents: Sequence[float],
) -> dict[int, dict[int, list[float]]]:
    """Return group → number of the interval → percentiles of the readings, interpolated between the two nearest."""
    found: dict[int, dict[int, list[float]]] = {member.group: {} for member in members}
    wanted: dict[str, Any] = {"series": [one.pk for one in _series_of(members)], "start": start, "stop": stop}
    wanted |= _parameters_of(members) | {"fractions": [percent / 100 for percent in percents]}
    numbers = numbers_sql("= ANY(%(series)s)", "%(start)s::timestamptz", "%(stop)s::timestamptz")
    statement = f"""{with_edges(edges, wanted)}, {_MEMBERS}
        SELECT number, bucket, percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY {_CONVERTED})
        FROM (SELECT series_id, value, {bucket_sql("time")} FROM {numbers} AS n) AS numbers
        JOIN members USING (series_id) GROUP BY number, bucket"""  # noqa: S608
    if members and percents:
        with cursor_for_many() as cursor:
            cursor.execute(statement, wanted)
            for group, bucket, values in cursor.fetchall():
                found[group][bucket - 1] = values
    return found


def group_interpolated(
    members: Sequence[GroupMember],
    edges: Sequence[datetime],
    start: datetime,
    stop: datetime,
    *,
    max_gap: timedelta | None = None,
) -> dict[int, dict[int, InterpolatedAggregate]]:
    """Return group → number of the interval → the sums of what `interpolated_aggregates` returns of its series.

    A sum is None where one of its series has none.
    """
    found: dict[int, dict[int, InterpolatedAggregate]] = {member.group: {} for member in members}
    parts, wanted = interpolation_sql(_series_of(members), start, stop, max_gap)
    values = ("delta", "delta / seconds", "integral")
    sums = ", ".join(f"CASE WHEN count({value}) = count(*) THEN sum({value}) END" for value in values)
    statement = f"""{with_edges(edges, wanted)}, {_MEMBERS}, {parts}
        SELECT number, bucket, sum(seconds), {sums} FROM lines JOIN members USING (series_id)
        GROUP BY number, bucket ORDER BY number, bucket"""  # noqa: S608
    if members:
        with cursor_for_many() as cursor:
            cursor.execute(statement, wanted | _parameters_of(members))
            for group, bucket, *values in cursor.fetchall():
                found[group][bucket - 1] = InterpolatedAggregate(*values)
    return found


def merge_interpolated(lines: Iterable[InterpolatedAggregate]) -> InterpolatedAggregate:
    """Return the sums of lines in one unit; at least one."""
    parts = list(lines)
    delta, rate, integral = (
        _sum_or_none([getattr(part, name) for part in parts]) for name in ("delta", "rate", "integral")
    )
    return InterpolatedAggregate(sum(part.seconds for part in parts), delta, rate, integral)


def merge_buckets(buckets: Iterable[AggregateBucket]) -> AggregateBucket:
    """Return the aggregates of numbers in one unit together; at least one bucket."""
    parts = list(buckets)
    if len(parts) == 1:
        return parts[0]
    last = max(parts, key=lambda part: (part.last_at, part.last))
    return AggregateBucket(
        sum(part.count for part in parts),
        min(part.min for part in parts if part.min is not None),
        max(part.max for part in parts if part.max is not None),
        _sum_or_none([part.sum for part in parts]),
        last.last,
        last.last_at,
    )


def _sum_or_none(values: Sequence[float | None]) -> float | None:
    """Return the sum; None where one of the values is None."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _series_of(members: Iterable[GroupMember]) -> list[Series]:
    return list({member.series.pk: member.series for member in members}.values())


def _parameters_of(members: Sequence[GroupMember]) -> dict[str, Any]:
    return {
        "member_series": [member.series.pk for member in members],
        "member_groups": [member.group for member in members],
        "factors": [member.factor for member in members],
        "offsets": [member.offset for member in members],
    }
