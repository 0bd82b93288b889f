"""The cost of queries on millions of readings, beside a table of (id, device, timestamp, metric name, value, unit).

Both hold the same readings of the same 1,000 devices with three series each: some devices report every minute for
30 days, the others now and then. What is measured is the platform's own code: every statement that it executes is
taken down and explained. Both answers are compared.

30 days by the hour are queried in three ways: from the hourly values alone (`hours`), from what the API's aggregates
come from (`aggregates`: whole hours and what is not rolled up yet, planned and read as the API does), and by a whole
request of the API (`request`, with its key, its checks, and its JSON). The goals are those of the second.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management import call_command
from django.db import connection
from django.test.utils import override_settings
from django_tenants.utils import schema_context

from devices.models import Device
from telemetry.models import Series
from telemetry.services.latest import values
from telemetry.services.queries import calendar_intervals
from telemetry.services.queries import readings as queries
from telemetry.services.queries.aggregates import Aggregates, aggregate
from telemetry.services.rollups import aggregation, packing, partitions
from tenants.models import Tenant
from tenants.services.lifecycle import create_tenant

from . import aggregates_request

_DEVICES = 1000
_METRICS = (("temperature", "°C"), ("humidity", "%"), ("pressure", "hPa"))
_DAYS = 30
_MINUTES = _DAYS * 24 * 60
_SHARE_OF_DENSE = 0.86
_RUNS = 7
_MOST_HOURS = 1000
_DAY = timedelta(days=1)

_OLD = """
CREATE TABLE old_telemetry (
    id bigserial PRIMARY KEY, device_id bigint NOT NULL, timestamp timestamptz NOT NULL,
    metric_name text NOT NULL, value double precision NOT NULL, unit text NOT NULL
);
CREATE INDEX old_telemetry_device_timestamp ON old_telemetry (device_id, timestamp DESC);
"""
# In order of time, as they come.
_FILL = """
CREATE TABLE made AS
SELECT s.id AS series_id, s.device_id, s.metric, s.unit, m.time,
    round((20 + 5 * sin(extract(epoch FROM m.time)::float8 / 13751 + s.id) + random())::numeric, 2)::float8 AS value
FROM telemetry_series s CROSS JOIN LATERAL (
    SELECT %(stop)s::timestamptz - n * %(minutes)s * interval '1 minute'
        / CASE WHEN s.device_id = ANY(%(dense)s) THEN %(minutes)s ELSE %(sparse)s END AS time
    FROM generate_series(0, CASE WHEN s.device_id = ANY(%(dense)s) THEN %(minutes)s ELSE %(sparse)s END - 1) AS n
) m ORDER BY m.time, s.id
"""
_OLD_HOURS = """
SELECT date_trunc('hour', timestamp) AS hour, count(*), min(value), max(value), avg(value) FROM old_telemetry
WHERE device_id = %s AND metric_name = %s AND timestamp >= %s AND timestamp < %s GROUP BY 1 ORDER BY 1
"""
_OLD_DAY = """
SELECT timestamp, value, unit FROM old_telemetry
WHERE device_id = %s AND metric_name = %s AND timestamp >= %s AND timestamp < %s ORDER BY timestamp
"""
_OLD_LATEST = """
SELECT DISTINCT ON (device_id, metric_name) device_id, metric_name, timestamp, value, unit FROM old_telemetry
WHERE device_id = ANY(%s) ORDER BY device_id, metric_name, timestamp DESC
"""


def run(*, readings: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, verify and return the figures. Raises AssertionError when both do not give the same."""
    call_command("migrate_schemas", shared=True, verbosity=0)
    tenant = create_tenant(slug="bench", name="Bench")
    with schema_context(tenant.schema_name):
        return _Bench(tenant, readings, say).run()


class _Bench:
    """The tables, and the queries on them."""

    def __init__(self, tenant: Tenant, readings: int, say: Callable[[str], None]) -> None:
        self._tenant = tenant
        self._wanted = readings
        self._say = say
        self._stop = datetime.now(UTC).replace(second=0, microsecond=0)
        self._start = aggregation.hour_of(self._stop) - _DAYS * _DAY
        # Of the middle of the month, and at the fixed time of the old query: no better or worse than others.
        self._day = aggregation.day_of(self._stop) - 15 * _DAY
        self._one: Series = Series()
        self._readings = 0

    def run(self) -> dict[str, Any]:
        self._fill()
        figures: dict[str, Any] = {"readings": self._readings, "devices": _DEVICES, "series": 3 * _DEVICES}
        bytes_each = {"old": self._bytes("old_telemetry"), "plain": self._bytes(partitions.READINGS)}
        day_plain = self._one_day()
        self._say("Rolling up")
        figures["rolling_up"] = self._roll_up()
        self._say("30 days by the hour")
        hours, plain = self._hours(), self._aggregates()
        self._say(f"Latest values of {_DEVICES} devices")
        newest = self._latest()
        self._say("Packing")
        figures["packing"], bytes_each["packed"] = self._pack()
        day_packed = self._one_day()
        hours_packed, packed = self._hours(), self._aggregates()
        figures["bytes_a_reading"] = bytes_each
        figures["hours_of_30_days"] = hours
        figures["hours_of_30_days_when_packed"] = hours_packed
        figures["aggregates_of_30_days"], figures["aggregates_of_30_days_when_packed"] = plain, packed
        figures["one_day_plain"], figures["one_day_packed"] = day_plain, day_packed
        figures["latest"] = newest
        figures["goals"] = [
            _goal("30 days by the hour: × faster", plain["faster"], at_least=20),
            _goal("30 days by the hour: × fewer pages", plain["fewer_pages"], at_least=50),
            _goal("30 days by the hour, packed: × faster", packed["faster"], at_least=20),
            _goal("30 days by the hour, packed: × fewer pages", packed["fewer_pages"], at_least=50),
            _goal("one day of one series: × fewer pages", day_plain["fewer_pages"], at_least=50),
            _goal("one packed day of one series: × fewer pages", day_packed["fewer_pages"], at_least=50),
            _goal("latest of 1,000 devices: × faster than DISTINCT ON", newest["faster"], at_least=100),
            _goal("bytes a packed reading, indexes included", bytes_each["packed"], at_most=16),
        ]
        return figures

    # --- the tables -------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        devices = Device.objects.bulk_create([Device(name=f"device {n}") for n in range(_DEVICES)])
        dense = max(1, round(self._wanted * _SHARE_OF_DENSE / (3 * _MINUTES)))
        sparse = max(1, (self._wanted - dense * 3 * _MINUTES) // (3 * (_DEVICES - dense)))
        Series.objects.bulk_create(
            Series(device=device, component="bme280", metric=metric, unit=unit, value_type="number")
            for device in devices
            for metric, unit in _METRICS
        )
        self._one = Series.objects.get(device=devices[dense // 2], metric="humidity")
        self._say(f"Making {dense * 3 * _MINUTES + sparse * 3 * (_DEVICES - dense)} readings")
        with connection.cursor() as cursor:
            cursor.execute(_OLD)
            many = [device.pk for device in devices[:dense]]
            cursor.execute(_FILL, {"stop": self._stop, "minutes": _MINUTES, "dense": many, "sparse": sparse})
            self._readings = cursor.rowcount
            cursor.execute(
                "INSERT INTO old_telemetry (device_id, timestamp, metric_name, value, unit)"
                " SELECT device_id, time, metric, value, unit FROM made"
            )
            times = [self._stop - n * _DAY for n in range(_DAYS + 2)]
            partitions.Partitions().ensure(cursor.connection, connection.schema_name, times)  # type: ignore[attr-defined]
            cursor.execute(
                "INSERT INTO telemetry_reading (series_id, time, value) SELECT series_id, time, value FROM made"
            )
            cursor.execute("DROP TABLE made")
        _vacuum()

    def _bytes(self, table: str) -> float:
        """Heap, TOAST and indexes of the table with its partitions, for each reading."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(%s)", [table])
            (size,) = cursor.fetchone()
            if size is None or not size:
                cursor.execute("SELECT pg_total_relation_size(%s::regclass)", [table])
                (size,) = cursor.fetchone()
        return round(float(size) / self._readings, 1)

    def _roll_up(self) -> dict[str, Any]:
        began = time.perf_counter()
        aggregation.roll_up(seconds=3600)
        took = time.perf_counter() - began
        _vacuum()
        return {"seconds": round(took, 1), "bytes_a_reading": self._bytes(partitions.HOURS)}

    def _pack(self) -> tuple[dict[str, Any], float]:
        """Pack all days that are over; the bytes of one reading that is packed."""
        with override_settings(READINGS_PACK_AFTER_DAYS=1):
            began = time.perf_counter()
            done = packing.pack(seconds=3600)
            took = time.perf_counter() - began
        _vacuum()
        with connection.cursor() as cursor:
            cursor.execute("SELECT sum(count) FROM telemetry_packedday")
            (packed,) = cursor.fetchone()
        assert packed > 0.9 * self._readings, "hardly anything was packed"
        each = self._bytes(partitions.PACKED) * self._readings / packed
        return {"seconds": round(took, 1), "readings": packed, **done}, round(each, 1)

    # --- the questions ----------------------------------------------------------------------------------------

    def _hours(self) -> dict[str, Any]:
        stop = aggregation.hour_of(self._stop) + timedelta(hours=1)
        new = _measure(lambda: aggregation.hourly_rollups([self._one.pk], self._start, stop))
        old = _measure(lambda: _fetch(_OLD_HOURS, [self._one.device_id, self._one.metric, self._start, stop]), runs=3)
        ours = [(r.start, r.count, r.min, r.max, round((r.sum or 0.0) / r.count, 9)) for r in new.pop("answer")]
        assert ours == _rounded(old.pop("answer")), "the hours differ"
        assert len(ours) >= _DAYS * 24, "hours are missing"
        return _compared(old, new)

    def _aggregates(self) -> dict[str, Any]:
        """What the API's aggregates come from, and a whole request, up to now: the last hours are not rolled up."""
        start, stop, one = self._start, self._stop, [self._one]
        edges = calendar_intervals.interval_edges(
            calendar_intervals.parse_interval("1h"), ZoneInfo("UTC"), start, stop, _MOST_HOURS
        )
        new = _measure(lambda: aggregate(one, edges, start, stop))
        request = _measure(aggregates_request.prepare(self._tenant, self._one, start, stop))
        old = _measure(lambda: _fetch(_OLD_HOURS, [self._one.device_id, self._one.metric, start, stop]), runs=3)
        ours = self._rows(new.pop("answer"), edges)
        # From the readings alone, without any rollup.
        assert ours == self._rows(aggregate(one, edges, start, stop, raw_only=True), edges), "the rollups differ"
        assert [row[:5] for row in ours] == _rounded(old.pop("answer")), "the aggregates differ"
        asked = [(*row[:4], round(row[4], 9), round(row[5], 6), row[6]) for row in request.pop("answer")]
        assert asked == ours, "the request says something else"
        return {**_compared(old, new), "request": _compared(old, request)}

    def _rows(self, answer: Aggregates, edges: Sequence[datetime]) -> list[tuple[Any, ...]]:
        """(start, count, min, max, avg, sum, last) of each hour. Sums are rounded: they are not added in one order."""
        rows = sorted(answer.buckets[self._one.pk].items())
        return [
            (edges[number], b.count, b.min, b.max, round(b.avg or 0.0, 9), round(b.sum or 0.0, 6), b.last)
            for number, b in rows
        ]

    def _one_day(self) -> dict[str, Any]:
        stop = self._day + _DAY
        new = _measure(lambda: queries.readings([self._one], start=self._day, stop=stop, limit=10_000))
        old = _measure(lambda: _fetch(_OLD_DAY, [self._one.device_id, self._one.metric, self._day, stop]))
        ours = [(row.time, row.value, row.unit) for row in new.pop("answer")]
        assert ours == old.pop("answer"), "the day differs"
        assert len(ours) == 24 * 60, "readings are missing"
        return _compared(old, new)

    def _latest(self) -> dict[str, Any]:
        listener = values.LatestRecorder()
        values.refill()
        names = {pk: rest for pk, *rest in Series.objects.values_list("pk", "device_id", "metric")}
        new = _measure(lambda: values.newest_readings(names))
        old = _measure(lambda: _fetch(_OLD_LATEST, [list(Device.objects.values_list("pk", flat=True))]), runs=3)
        ours = sorted((*names[pk], one.time, one.value) for pk, one in new.pop("answer").items())
        assert ours == sorted(row[:4] for row in old.pop("answer")), "the latest values differ"
        assert len(ours) == 3 * _DEVICES, "series are missing"
        # Without Redis: what a reader does that does not trust it.
        values.forget_tenant(connection.schema_name)  # type: ignore[attr-defined]
        probed = _measure(lambda: values.newest_readings(names))
        listener.close()
        assert len(probed.pop("answer")) == 3 * _DEVICES
        return {**_compared(old, new), "without_redis": probed}


def _rounded(hours: list[Any]) -> list[tuple[Any, ...]]:
    return [(hour, count, least, most, round(mean, 9)) for hour, count, least, most, mean in hours]


def _fetch(query: str, parameters: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


def _vacuum() -> None:
    """What autovacuum does after a while; for all tables alike."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")


def _measure(ask: Callable[[], Any], runs: int = _RUNS) -> dict[str, Any]:
    """The answer, the median time of a warm call in ms, and the pages of all its statements (EXPLAIN's)."""
    with _taken_down() as statements:
        answer = ask()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        ask()
        times.append(time.perf_counter() - began)
    pages = sum(_pages(query, parameters) for query, parameters in statements)
    return {"answer": answer, "ms": round(1000 * statistics.median(times), 2), "pages": pages}


@contextmanager
def _taken_down() -> Iterator[list[tuple[str, Any]]]:
    """The statements that are executed, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def note(execute: Any, query: str, parameters: Any, many: bool, context: Any) -> Any:
        statements.append((query, parameters))
        return execute(query, parameters, many, context)

    with connection.execute_wrapper(note):
        yield statements


def _pages(query: str, parameters: Any) -> int:
    if not query.lstrip().upper().startswith(("SELECT", "WITH", "(")):
        return 0
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", parameters)
        (plan,) = cursor.fetchone()
    top = (plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


def _compared(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {
        "old": old,
        "new": new,
        "faster": round(old["ms"] / new["ms"], 1),
        "fewer_pages": round(old["pages"] / max(1, new["pages"]), 1),
    }


def _goal(what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> dict[str, Any]:
    if at_least is not None:
        return {"goal": what, "at_least": at_least, "value": value, "met": value >= at_least}
    assert at_most is not None
    return {"goal": what, "at_most": at_most, "value": value, "met": value <= at_most}
