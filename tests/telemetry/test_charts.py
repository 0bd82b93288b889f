"""Lines of few points that look like all readings."""

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from django_tenants.utils import schema_context
from hypothesis import given
from hypothesis import strategies as st

from telemetry.models import Series
from telemetry.services.queries import charts
from telemetry.services.queries.charts import DeviceChart, SeriesLine, device_charts, series_lines
from telemetry.services.queries.downsampling import Candidate, bucket_count, choose_points
from telemetry.services.rollups import aggregation, packing
from tests.factories import add_readings, add_series, make_device
from tests.telemetry.rollup_tenant import RollupTenant, make_rollup_tenant, remove_rollup_tenant

NOW = timezone.now().replace(microsecond=0)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def candidates_of(values: list[float], buckets: int) -> list[Candidate]:
    return [(number * buckets // len(values), (float(number), value)) for number, value in enumerate(values)]


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(3, 60))
def test_points_are_chosen_from_those_there_are(values: list[float], most: int) -> None:
    candidates = candidates_of(values, bucket_count(most))
    points = [point for _, point in candidates]
    chosen = choose_points(candidates, most)
    assert len(chosen) == min(len(points), most)
    assert set(chosen) <= set(points)
    assert all(earlier[0] < later[0] for earlier, later in pairwise(chosen))
    if points and most > 3:
        assert (chosen[0], chosen[-1]) == (points[0], points[-1])


@given(st.lists(st.one_of(st.just(0.0), st.floats(-1e6, 1e6)), max_size=300), st.integers(3, 60))
def test_the_extremes_of_every_bucket_stay(values: list[float], most: int) -> None:
    candidates = candidates_of(values, bucket_count(most))
    chosen = set(choose_points(candidates, most))
    for bucket in {number for number, _ in candidates}:
        held = [value for number, (_, value) in candidates if number == bucket]
        kept = [point[1] for number, point in candidates if number == bucket and point in chosen]
        assert (min(kept), max(kept)) == (min(held), max(held))


def test_what_is_left_goes_to_the_corners_of_the_line() -> None:
    """Two buckets of a level line: the ends are their extremes, and the room is for the points beside it."""
    level = [(0, (float(x), 0.0)) for x in range(10)] + [(1, (float(x), 0.0)) for x in range(10, 20)]
    assert choose_points(level, 6)[:1] == [(0.0, 0.0)]
    slope = [(0, (float(x), float(x * x))) for x in range(30)]
    assert choose_points(slope, 3) == [(0.0, 0.0), (14.0, 196.0), (29.0, 841.0)]


@pytest.fixture
def device(db: None, tenant_a: Any) -> Any:
    return make_device(tenant_a, "greenhouse")


def charts_of(tenant: Any, device: Any, span: timedelta = DAY) -> list[DeviceChart]:
    with schema_context(tenant.schema_name):
        return device_charts(device, NOW, span)


def test_nothing_to_draw(tenant_a: Any, device: Any) -> None:
    text = add_series(tenant_a, device, "door", "state", "", "text")
    add_readings(tenant_a, text, (NOW, "open"))
    add_series(tenant_a, device, "dht22", "humidity", "%")
    old = add_series(tenant_a, device, "dht22", "temperature", "°C")
    add_readings(tenant_a, old, (NOW - DAY - timedelta(minutes=1), 1.0), (NOW + timedelta(minutes=1), 2.0))
    assert charts_of(tenant_a, device) == []
    assert [chart.values for chart in charts_of(tenant_a, device, 7 * DAY)] == [[1.0]]


def test_a_short_series_keeps_every_value(tenant_a: Any, device: Any) -> None:
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    times = [NOW - timedelta(seconds=seconds) for seconds in (40, 20, 0)]
    add_readings(tenant_a, series, *zip(times, (1.0, 2.0, 4.5), strict=True))
    (chart,) = charts_of(tenant_a, device)
    assert chart.values == [1.0, 2.0, 4.5]
    assert chart.times == [time.timestamp() for time in times]
    assert (chart.start, chart.stop) == (times[0].timestamp(), NOW.timestamp())
    assert chart.series.unit == "°C"


def test_a_day_is_thinned_to_readings_with_its_peak_and_its_gap(tenant_a: Any, device: Any) -> None:
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    minutes = [minute for minute in range(0, 24 * 60, 2) if not 600 <= minute < 700]
    sent = {(NOW - DAY + timedelta(minutes=m)).timestamp(): 1000.0 if m == 300 else float(m) for m in minutes}
    add_readings(tenant_a, series, *((datetime.fromtimestamp(at, UTC), value) for at, value in sent.items()))
    (chart,) = charts_of(tenant_a, device)
    points = [(at, value) for at, value in zip(chart.times, chart.values, strict=True) if value is not None]
    assert len(points) == 300
    assert set(points) <= set(sent.items())
    assert 1000.0 in chart.values
    assert chart.values.count(None) == 1
    gap = chart.values.index(None)
    before, after = chart.values[gap - 1], chart.values[gap + 1]
    assert before == pytest.approx(598, abs=8)
    assert after == pytest.approx(702, abs=8)


def test_a_series_of_an_hourly_sensor_is_a_line(tenant_a: Any, device: Any) -> None:
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    add_readings(tenant_a, series, *((NOW - n * HOUR, float(n)) for n in range(24)))
    (chart,) = charts_of(tenant_a, device)
    assert None not in chart.values
    assert len(chart.values) == 24


def test_each_series_is_a_chart_of_its_own(tenant_a: Any, device: Any) -> None:
    for unit, value in (("°C", 20.0), ("°F", 68.0)):
        add_readings(tenant_a, add_series(tenant_a, device, "dht22", "temperature", unit), (NOW, value))
    assert [(chart.series.unit, chart.values) for chart in charts_of(tenant_a, device)] == [
        ("°C", [20.0]),
        ("°F", [68.0]),
    ]


@pytest.fixture(scope="module")
def made(django_db_setup: None, django_db_blocker: Any) -> Iterator[RollupTenant]:
    with django_db_blocker.unblock():
        made = make_rollup_tenant("drawn")
        yield made
        remove_rollup_tenant(made)
        connection.close()


@pytest.fixture
def year(live_db: None, made: RollupTenant) -> Iterator[list[SeriesLine]]:
    """Sixty days of one series, in part rolled up and packed, with one peak; and another with few readings."""
    with schema_context(made.schema):
        made.clear()
        many, few = made.series[:2]
        begin = MIDNIGHT - 60 * DAY
        rows = [(many, begin + n * HOUR / 4, math.sin(n / 50)) for n in range(60 * 96)]
        rows[1234] = (many, rows[1234][1], 99.0)
        made.store(*rows, *((few, begin + n * DAY, float(n)) for n in range(20)))
        aggregation.roll_up(now=MIDNIGHT - 20 * DAY)
        packing.pack(now=MIDNIGHT - 25 * DAY)
        yield []
        made.clear()


def test_a_long_range_is_drawn_from_readings_packed_or_not(year: Any, made: RollupTenant) -> None:
    listed = list(Series.objects.filter(pk__in=made.series[:3]).order_by("pk"))
    found = series_lines(listed, MIDNIGHT - 60 * DAY, MIDNIGHT, 200)
    assert [(line.series.pk, len(line.points), line.resolution) for line in found] == [
        (made.series[0], 200, 0.0),
        (made.series[1], 20, 0.0),
    ]
    with connection.cursor() as cursor:
        cursor.execute("SELECT date_part('epoch', time), value FROM truth WHERE series_id = %s", [made.series[0]])
        assert set(found[0].points) <= set(cursor.fetchall())
    assert 99.0 in {value for _, value in found[0].points}
    assert found[0].gaps == []


def test_where_readings_are_too_many_or_gone_hours_stand_for_them(
    year: Any, made: RollupTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list(Series.objects.filter(pk__in=made.series[:2]).order_by("pk"))
    begin = MIDNIGHT - 60 * DAY
    exact = series_lines(listed, begin, MIDNIGHT, 200)
    monkeypatch.setattr(charts, "MAX_READINGS", 1000)
    by_hours, few = series_lines(listed, begin, MIDNIGHT, 200)
    assert (by_hours.resolution, len(by_hours.points)) == (3600.0, 200)
    assert few == exact[1]
    peak = next(at for at, value in exact[0].points if value == 99.0)
    assert [value for at, value in by_hours.points if abs(at - peak) < 3600 and value == 99.0] == [99.0]
    low, high = (extreme(value for _, value in exact[0].points if value != 99.0) for extreme in (min, max))
    assert all(low - 0.01 <= value <= high + 0.01 or value == 99.0 for _, value in by_hours.points)
    monkeypatch.undo()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM telemetry_packedday WHERE day < %s", [begin + 20 * DAY])
        cursor.execute("DELETE FROM telemetry_reading WHERE time < %s", [begin + 20 * DAY])
        cursor.execute("UPDATE telemetry_rollupstate SET readings_from = %s", [begin + 20 * DAY])
    gone = series_lines(listed, begin, MIDNIGHT, 200)
    assert [(line.resolution, len(line.points)) for line in gone] == [(3600.0, 200), (3600.0, 20)]
    assert gone[0].points[0][0] < (begin + HOUR).timestamp()


@pytest.mark.parametrize("most", [3, 4, 5, 12, 75, 500])
@pytest.mark.parametrize("source", ["readings", "hours"])
def test_no_spike_of_a_random_series_is_lost(
    live_db: None, made: RollupTenant, monkeypatch: pytest.MonkeyPatch, most: int, source: str
) -> None:
    """The extremes of the whole range and of every bucket, in plain Python from the readings beside the tables."""
    chance = random.Random(f"{most} {source}")
    begin = MIDNIGHT - 30 * DAY
    start, stop = begin + chance.random() * DAY, MIDNIGHT - chance.random() * DAY
    with schema_context(made.schema):
        made.clear()
        one = made.series[0]
        rows = [(one, begin + chance.random() * 30 * DAY, chance.gauss(20, 0.5)) for _ in range(3000)]
        quiet = begin + 7 * DAY
        rows = [row for row in rows if not quiet <= row[1] < quiet + 3 * DAY]
        for number in chance.sample(range(len(rows)), 12):
            rows[number] = (one, rows[number][1], chance.choice([-1, 1]) * chance.uniform(40, 400))
        made.store(*rows)
        aggregation.roll_up(now=MIDNIGHT - 10 * DAY)
        packing.pack(now=MIDNIGHT - 15 * DAY)
        if source == "hours":
            monkeypatch.setattr(charts, "MAX_READINGS", 10)
        (line,) = series_lines([Series.objects.get(pk=one)], start, stop, most)
        first, last = charts.extent_of([one], start, stop)
        made.clear()
    by_hours = line.resolution > 0
    assert by_hours == (source == "hours")
    read = [time for _, time, _ in rows if start <= time < stop]
    assert start <= first <= min(read)
    assert max(read) < last <= stop
    assert len(line.points) <= most
    if by_hours:
        begin, end = aggregation.hour_of(first), aggregation.hour_of(last - timedelta(microseconds=1)) + HOUR
        measured = [(aggregation.hour_of(time).timestamp(), value) for _, time, value in rows if begin <= time < end]
    else:
        measured = [(time.timestamp(), value) for _, time, value in rows if start <= time < stop]
        assert set(line.points) <= set(measured)
    values = [value for _, value in line.points]
    assert (min(values), max(values)) == (min(value for _, value in measured), max(value for _, value in measured))
    width = (last - first).total_seconds() / bucket_count(most)
    buckets: dict[int, list[float]] = {}
    for at, value in measured:
        number = int((at - first.timestamp()) // width)
        buckets.setdefault(min(max(number, 0), bucket_count(most) - 1), []).append(value)
    kept = set(values)
    missing = {number for number, held in buckets.items() if not {min(held), max(held)} <= kept}
    assert missing == set()


@pytest.mark.parametrize("source", ["readings", "packed", "hours", "rollups"])
def test_a_range_that_is_much_longer_than_its_readings_is_drawn_as_finely(
    live_db: None, made: RollupTenant, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Four days of readings in a range of ten years have as many points as asked for, or all hours."""
    begin = MIDNIGHT - 14 * DAY
    with schema_context(made.schema):
        made.clear()
        one = Series.objects.get(pk=made.series[0])
        made.store(*((one.pk, begin + n * HOUR / 30, math.sin(n / 40)) for n in range(4 * 24 * 30)))
        aggregation.roll_up(now=MIDNIGHT)
        if source == "packed":
            packing.pack(now=MIDNIGHT)
        if source == "hours":
            monkeypatch.setattr(charts, "MAX_READINGS", 10)
        if source == "rollups":
            with connection.cursor() as cursor:
                cursor.execute("DELETE FROM telemetry_reading")
                cursor.execute("UPDATE telemetry_rollupstate SET readings_from = %s", [MIDNIGHT])
        (line,) = series_lines([one], MIDNIGHT - 3650 * DAY, MIDNIGHT, 200)
        made.clear()
    assert (line.resolution > 0) == (source in ("hours", "rollups"))
    assert len(line.points) >= (190 if line.resolution else 200)
