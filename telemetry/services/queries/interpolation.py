"""Aggregates of the line through the readings of a series: increase of a counter, its time, and integral over time.

Between two successive readings the value changes evenly; a boolean keeps its value until the next reading. A counter
that falls was reset, and has counted from 0 since. The part of each pair of readings that is in an interval counts
there, so that intervals, and ranges that follow each other, add up. The line goes on to the nearest readings outside
of the range. It is always computed from readings, in one statement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from devices.models import Metric
from telemetry.models import Series
from telemetry.services.rollups.packing import UNPACKED, UNPACKED_TIME, numbers_sql
from tenants.infrastructure.database import cursor_for_many

from .aggregates import with_edges


# Not frozen: a result has thousands.
@dataclass(slots=True)
class InterpolatedAggregate:
    """A series in one interval: the seconds that its line covers, the increase of a counter and its rate a second, and
    the integral; of a group the sums of its series.

    `delta` and `rate` are None for booleans, and all three where a number is too large.
    """

    seconds: float
    delta: float | None
    rate: float | None
    integral: float | None


InterpolatedBuckets = dict[int, dict[int, InterpolatedAggregate]]

_ONE_INSTANT = "interval '1 microsecond'"
_START, _STOP = "%(start)s::timestamptz", "%(stop)s::timestamptz"
_BEFORE = f"""(SELECT max(near.time) AS time FROM (
    (SELECT time FROM telemetry_reading WHERE series_id = s.id AND text IS NULL
        AND time >= %(earliest)s AND time < {_START} ORDER BY time DESC LIMIT 1)
    UNION ALL
    (SELECT max({UNPACKED_TIME}) FROM (
        SELECT * FROM telemetry_packedday WHERE series_id = s.id AND day < {_START}
            AND day > %(earliest)s::timestamptz - interval '24 hours' ORDER BY day DESC LIMIT 2
    ) p CROSS JOIN LATERAL {UNPACKED} WHERE {UNPACKED_TIME} < {_START})
) near)"""  # noqa: S608 (constants)
_AFTER = f"""(SELECT min(near.time) AS time FROM (
    (SELECT time FROM telemetry_reading WHERE series_id = s.id AND text IS NULL
        AND time >= {_STOP} AND time < %(latest)s ORDER BY time LIMIT 1)
    UNION ALL
    (SELECT min({UNPACKED_TIME}) FROM (
        SELECT * FROM telemetry_packedday WHERE series_id = s.id AND day > {_STOP} - interval '24 hours'
            AND day < %(latest)s ORDER BY day LIMIT 2
    ) p CROSS JOIN LATERAL {UNPACKED} WHERE {UNPACKED_TIME} >= {_STOP})
) near)"""  # noqa: S608
_NEAREST = """
    SELECT s.id, n.time, max(n.value) FROM unnest(%(series)s::bigint[]) AS s(id) CROSS JOIN LATERAL {near} AS at
    CROSS JOIN LATERAL {numbers} AS n GROUP BY s.id, n.time"""
_NUMBERS_AT = numbers_sql("= s.id", "at.time", f"at.time + {_ONE_INSTANT}")
# Of two values of one instant the greater. Far too large numbers would be an error in PostgreSQL.
_PIECES = f"""
points AS (
    SELECT series_id, time, max(value) AS value FROM {numbers_sql("= ANY(%(series)s)", _START, _STOP)} n
    GROUP BY series_id, time
    UNION ALL {_NEAREST.format(near=_BEFORE, numbers=_NUMBERS_AT)}
    UNION ALL {_NEAREST.format(near=_AFTER, numbers=_NUMBERS_AT)}
), pairs AS (
    SELECT series_id, lag(time) OVER line AS t0, lag(value) OVER line AS v0, time AS t1, value AS v1
    FROM points WINDOW line AS (PARTITION BY series_id ORDER BY time)
), spread AS (
    SELECT *, generate_series(
        greatest(width_bucket(t0, (SELECT edges FROM e)), 1),
        least(width_bucket(t1, (SELECT edges FROM e)), (SELECT cardinality(edges) FROM e) - 1)
    ) AS bucket
    FROM pairs WHERE t1 > {_START} AND t0 < {_STOP} AND t1 - t0 <= %(longest)s
), parts AS (
    SELECT *, greatest(t0, {_START}, (SELECT edges FROM e)[bucket]) AS low,
        least(t1, {_STOP}, (SELECT edges FROM e)[bucket + 1]) AS high,
        date_part('epoch', t1 - t0) AS whole
    FROM spread
), pieces AS (
    SELECT series_id, bucket, v0, v1, series_id = ANY(%(booleans)s) AS is_boolean,
        abs(v0) < 1e290 AND abs(v1) < 1e290 AS is_usual,
        CASE WHEN low = t0 AND high = t1 THEN whole ELSE date_part('epoch', high - low) END AS seconds,
        CASE WHEN low = t0 AND high = t1 THEN 1 ELSE date_part('epoch', high - low) / whole END AS share,
        CASE WHEN low = t0 AND high = t1 THEN 0.5
            ELSE date_part('epoch', (low - t0) + (high - t0)) / 2 / whole END AS middle
    FROM parts WHERE high > low
)"""  # noqa: S608
_LINES = """lines AS (
    SELECT series_id, bucket, sum(seconds) AS seconds,
        CASE WHEN bool_and(is_usual AND NOT is_boolean) THEN sum(CASE WHEN NOT is_usual THEN 0
            WHEN v1 >= v0 THEN (v1 - v0) * share ELSE greatest(v1, 0) * share END) END AS delta,
        CASE WHEN bool_and(is_usual) THEN sum(CASE WHEN NOT is_usual THEN 0
            WHEN is_boolean THEN v0 * seconds ELSE (v0 + (v1 - v0) * middle) * seconds END) END AS integral
    FROM pieces GROUP BY series_id, bucket
)"""


def interpolation_sql(
    series: Sequence[Series], start: datetime, stop: datetime, max_gap: timedelta | None
) -> tuple[str, dict[str, Any]]:
    """Return the parts of a statement's beginning after `e` (the edges), of which the last is `lines`; and parameters.

    `lines` is (series_id, bucket, seconds, delta, integral), for each interval with a line; buckets count from 1.
    """
    wanted = {
        "series": [one.pk for one in series],
        "booleans": [one.pk for one in series if one.value_type == Metric.ValueType.BOOLEAN],
        "start": start,
        "stop": stop,
        "earliest": "-infinity" if max_gap is None else start - max_gap,
        "latest": "infinity" if max_gap is None else stop + max_gap,
        "longest": max_gap if max_gap is not None else timedelta.max,
    }
    return f"{_PIECES}, {_LINES}", wanted


def interpolated_aggregates(
    series: Sequence[Series],
    edges: Sequence[datetime],
    start: datetime,
    stop: datetime,
    *,
    max_gap: timedelta | None = None,
) -> InterpolatedBuckets:
    """Return series id → number of the interval → the line between the edges (UTC, ascending) in start ≤ time < stop.

    Intervals without a line are left out; so are texts. Two readings that are farther apart than `max_gap` have no
    line between them.
    """
    numbers = [one for one in series if one.value_type != Metric.ValueType.TEXT]
    found: InterpolatedBuckets = {one.pk: {} for one in series}
    if numbers:
        parts, wanted = interpolation_sql(numbers, start, stop, max_gap)
        statement = f"""{with_edges(edges, wanted)}, {parts}
            SELECT series_id, bucket, seconds, delta, delta / seconds, integral FROM lines ORDER BY 1, 2"""  # noqa: S608
        with cursor_for_many() as cursor:
            cursor.execute(statement, wanted)
            for pk, bucket, *values in cursor.fetchall():
                found[pk][bucket - 1] = InterpolatedAggregate(*values)
    return found
