"""Rate, delta and integral are those of a plain computation on the line through the readings."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from telemetry.models import Series
from telemetry.services.queries.calendar_intervals import interval_edges, parse_interval
from telemetry.services.queries.interpolation import InterpolatedAggregate, InterpolatedBuckets, interpolated_aggregates
from telemetry.services.rollups import aggregation, packing
from tests.telemetry.rollup_tenant import RollupTenant, Row, make_rollup_tenant, remove_rollup_tenant

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# In these days Berlin sets its clocks back (25 October), and a month ends.
BEGIN = datetime(2026, 10, 18, tzinfo=UTC)
END = BEGIN + 20 * DAY


@pytest.fixture(scope="module")
def made(django_db_setup: None, django_db_blocker: Any) -> Iterator[RollupTenant]:
    with django_db_blocker.unblock():
        made = make_rollup_tenant("metered")
        yield made
        remove_rollup_tenant(made)
        connection.close()


@pytest.fixture
def meters(live_db: None, made: RollupTenant) -> Iterator[RollupTenant]:
    with schema_context(made.schema):
        made.clear()
        yield made
        made.clear()


def counter(chance: random.Random, series: int, count: int) -> list[Row]:
    """A counter that is reset now and then, with a gap of three days and two values of one instant."""
    value, rows, gap = 0.0, [], BEGIN + chance.randrange(15) * DAY
    times = sorted(BEGIN + timedelta(microseconds=chance.randrange(20 * 86400 * 10**6)) for _ in range(count))
    times += [aggregation.hour_of(time) for time in times[::9]] + [aggregation.day_of(time) for time in times[::11]]
    for time in sorted(set(times)):
        value = chance.choice([0.0, 2.5]) if chance.random() < 0.02 else value + chance.randrange(40) / 8
        if not gap <= time < gap + 3 * DAY:
            rows.append((series, time, value))
            if chance.random() < 0.02:
                rows.append((series, time, value + 1))
    return rows


def expected(
    rows: list[Row], edges: list[datetime], start: datetime, stop: datetime, max_gap: timedelta | None = None
) -> dict[int, dict[int, list[Fraction]]]:
    """Series → number of the interval → seconds, delta, integral; pair by pair and interval by interval."""
    lines: dict[int, dict[datetime, float]] = {}
    for series, time, value in rows:
        line = lines.setdefault(series, {})
        line[time] = max(value, line.get(time, value))
    found: dict[int, dict[int, list[Fraction]]] = {series: {} for series in lines}
    for series, line in lines.items():
        for (t0, v0), (t1, v1) in pairwise(sorted(line.items())):
            if max_gap is not None and t1 - t0 > max_gap:
                continue
            rise = Fraction(v1) - Fraction(v0) if v1 >= v0 else Fraction(v1)
            whole = seconds_of(t1 - t0)
            for number, (earlier, later) in enumerate(pairwise(edges)):
                low, high = max(t0, start, earlier), min(t1, stop, later)
                if low >= high:
                    continue
                seconds = seconds_of(high - low)
                slope = (Fraction(v1) - Fraction(v0)) / whole
                ends = [Fraction(v0) + slope * seconds_of(time - t0) for time in (low, high)]
                sums = found[series].setdefault(number, [Fraction(0)] * 3)
                sums[0] += seconds
                sums[1] += rise * seconds / whole
                sums[2] += (ends[0] + ends[1]) / 2 * seconds
    return found


def seconds_of(span: timedelta) -> Fraction:
    return Fraction(span // timedelta(microseconds=1), 10**6)


def check(found: InterpolatedBuckets, wanted: dict[int, dict[int, list[Fraction]]]) -> None:
    assert {pk: set(own) for pk, own in found.items() if own} == {pk: set(own) for pk, own in wanted.items() if own}
    for pk, own in wanted.items():
        for number, values in own.items():
            one = found[pk][number]
            assert [one.seconds, one.delta, one.integral] == pytest.approx(
                [float(v) for v in values], rel=1e-6, abs=1e-6
            )
            assert one.rate == pytest.approx(float(values[1] / values[0]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("max_gap", [None, 2 * DAY, 2 * HOUR])
@pytest.mark.parametrize("interval", ["15m", "1h", "1d", "1w", "1mo"])
def test_lines_are_those_of_the_readings(meters: RollupTenant, interval: str, max_gap: timedelta | None) -> None:
    chance = random.Random(f"{interval} {max_gap}")
    rows = [row for one in meters.series[:4] for row in counter(chance, one, 250)]
    meters.store(*rows)
    aggregation.roll_up(now=END - 4 * DAY)
    packing.pack(now=END - 6 * DAY)
    meters.store(*counter(chance, meters.series[4], 20))  # late
    rows = _stored()
    listed = list(Series.objects.order_by("pk"))
    for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata"):
        start = BEGIN + timedelta(seconds=chance.randrange(8 * 86400))
        stop = END - timedelta(seconds=chance.randrange(8 * 86400))
        if interval == "15m":
            stop = min(stop, start + 2 * DAY)
        edges = interval_edges(parse_interval(interval), ZoneInfo(zone), start, stop, 5000)
        found = interpolated_aggregates(listed, edges, start, stop, max_gap=max_gap)
        check(found, expected(rows, edges, start, stop, max_gap))


def _stored() -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT series_id, time, value FROM truth")
        return list(cursor.fetchall())


def test_ranges_that_follow_each_other_add_up(meters: RollupTenant) -> None:
    """Months of a meter are its quarter, though no reading is at a boundary."""
    chance = random.Random(3)
    (one, *_) = Series.objects.order_by("pk")
    meters.store(*counter(chance, one.pk, 300))
    packing_until = END - 3 * DAY
    aggregation.roll_up(now=packing_until)
    packing.pack(now=packing_until)
    cuts = sorted([BEGIN, END, *(BEGIN + chance.random() * 20 * DAY for _ in range(4))])

    def total(start: datetime, stop: datetime) -> InterpolatedAggregate:
        (bucket,) = interpolated_aggregates([one], [start, stop], start, stop)[one.pk].values()
        return bucket

    whole, parts = total(BEGIN, END), [total(*cut) for cut in pairwise(cuts)]
    for name in ("seconds", "delta", "integral"):
        assert sum(getattr(part, name) for part in parts) == pytest.approx(getattr(whole, name), rel=1e-9)


def test_a_reset_counts_from_zero(meters: RollupTenant) -> None:
    (one, *_) = Series.objects.order_by("pk")
    meters.store(*((one.pk, BEGIN + n * HOUR, value) for n, value in enumerate([100.0, 110.0, 3.0, 5.0])))
    (bucket,) = interpolated_aggregates([one], [BEGIN, BEGIN + DAY], BEGIN, BEGIN + DAY)[one.pk].values()
    assert (bucket.seconds, bucket.delta) == (3 * 3600, 10 + 3 + 2)
    assert bucket.rate == pytest.approx(15 / 10800)
    assert bucket.integral == pytest.approx((105 + 56.5 + 4) * 3600)


def test_a_boolean_keeps_its_value(meters: RollupTenant) -> None:
    """Its integral is the time for which it was true."""
    device = Series.objects.order_by("pk")[0].device
    state, _ = Series.objects.get_or_create(device=device, component="relay", metric="on", value_type="boolean")
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO telemetry_reading (series_id, time, value) VALUES (%s, %s, %s)",
            [(state.pk, BEGIN + n * HOUR, value) for n, value in ((0, 0.0), (1, 1.0), (3, 0.0), (5, 1.0))],
        )
    edges = [BEGIN, BEGIN + 2 * HOUR, BEGIN + 6 * HOUR]
    found = interpolated_aggregates([state], edges, BEGIN, BEGIN + 6 * HOUR)[state.pk]
    assert found == {
        0: InterpolatedAggregate(7200.0, None, None, 3600.0),
        1: InterpolatedAggregate(10800.0, None, None, 3600.0),
    }


def test_too_large_numbers_have_no_line_and_one_reading_has_none(meters: RollupTenant) -> None:
    first, second = Series.objects.order_by("pk")[:2]
    meters.store((first.pk, BEGIN, -1.7e308), (first.pk, BEGIN + HOUR, 1.7e308), (second.pk, BEGIN, 1.0))
    found = interpolated_aggregates([first, second], [BEGIN, BEGIN + DAY], BEGIN, BEGIN + DAY)
    assert found == {first.pk: {0: InterpolatedAggregate(3600.0, None, None, None)}, second.pk: {}}
    assert interpolated_aggregates([], [BEGIN, END], BEGIN, END) == {}
