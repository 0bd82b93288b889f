"""Aggregates are those of the readings, whatever is rolled up, late, packed, or cut by the clocks of a place."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from telemetry.models import Series
from telemetry.services.queries import aggregates
from telemetry.services.queries.aggregates import AggregateBucket, aggregate, read_plan
from telemetry.services.queries.calendar_intervals import interval_edges, parse_interval
from telemetry.services.queries.query_budget import QueryTooExpensive, time_limited_queries
from telemetry.services.rollups import aggregation, packing
from tests.telemetry.rollup_tenant import RollupTenant, Row, make_rollup_tenant, remove_rollup_tenant, truth

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
# The night in which Berlin and Lord Howe change their clocks is in these days, on different days.
BEGIN = datetime(2026, 9, 28, tzinfo=UTC)
END = BEGIN + 32 * DAY
INTERVALS = ("15m", "1h", "90m", "2h", "6h", "1d", "2d", "1w", "1mo")
ZONES = ("UTC", "Asia/Seoul", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns")


@pytest.fixture(scope="module")
def made(django_db_setup: None, django_db_blocker: Any) -> Iterator[RollupTenant]:
    with django_db_blocker.unblock():
        made = make_rollup_tenant("summed")
        yield made
        remove_rollup_tenant(made)
        connection.close()


@pytest.fixture
def field(live_db: None, made: RollupTenant) -> Iterator[RollupTenant]:
    with schema_context(made.schema):
        made.clear()
        yield made


def random_rows(chance: random.Random, series: list[int], count: int, begin: datetime, end: datetime) -> list[Row]:
    """Values that are sums of powers of two, so that sums are the same in whatever order they are made."""
    span = int((end - begin).total_seconds())
    times = [begin + timedelta(seconds=chance.randrange(span)) for _ in range(count)]
    # On the edges of hours too, and several at one instant.
    times += (
        [aggregation.hour_of(time) for time in times[::5]]
        + times[::7]
        + [aggregation.day_of(time) for time in times[::9]]
    )
    return [(chance.choice(series), time, chance.randrange(-4000, 4000) / 4) for time in times]


def expected(rows: list[Any], series: list[int], cuts: list[datetime], start: datetime, stop: datetime) -> Any:
    """The same from a list of (series, time, value), without any of what is tested."""
    found: dict[int, dict[int, list[Any]]] = {one: {} for one in series}
    ordered = sorted((time, value, one) for one, time, value in rows if one in found and start <= time < stop)
    number = 0
    for time, value, one in ordered:
        while time >= cuts[number + 1]:
            number += 1
        found[one].setdefault(number, []).append((time, value))
    return {
        one: {
            number: AggregateBucket(
                len(group),
                min(value for _, value in group),
                max(value for _, value in group),
                sum(value for _, value in group),
                group[-1][1],
                group[-1][0],
            )
            for number, group in groups.items()
        }
        for one, groups in found.items()
    }


@pytest.fixture
def filled(field: RollupTenant) -> Callable[[int], list[Any]]:
    """Readings of a month: rolled up and packed in part, late in part, and not yet rolled up at the end."""

    def fill(seed: int) -> list[Any]:
        chance = random.Random(seed)
        field.store(*random_rows(chance, field.series, 3000, BEGIN, END))
        aggregation.roll_up(now=END - 5 * DAY - HOUR / 2)
        packing.pack(now=END - 12 * DAY)
        field.store(*random_rows(chance, field.series[:2], 8, BEGIN, END - 6 * DAY))  # late, and rolled up again
        aggregation.roll_up(now=END - 5 * DAY)
        field.store(*random_rows(chance, field.series[2:4], 8, BEGIN, END - 6 * DAY))  # late, and marked only
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT count(*) FROM telemetry_readingday), (SELECT count(*) FROM telemetry_packedday),"
                " (SELECT count(*) FROM telemetry_latehour)"
            )
            assert all(cursor.fetchone()), "all ways are there to be taken"
        return truth()

    return fill


def test_aggregates_are_those_of_the_readings(field: RollupTenant, filled: Callable[[int], list[Any]]) -> None:
    rows, chance = filled(1), random.Random(2)
    listed = list(Series.objects.order_by("pk"))
    for zone in ZONES:
        for interval in INTERVALS:
            start = BEGIN + chance.choice([timedelta(0), HOUR / 3, timedelta(seconds=chance.randrange(10**6))])
            stop = END - chance.choice([timedelta(0), HOUR / 3, timedelta(seconds=chance.randrange(10**6))])
            if interval == "15m":
                stop = min(stop, start + 5 * DAY)
            cuts = interval_edges(parse_interval(interval), ZoneInfo(zone), start, stop, 5000)
            said = expected(rows, field.series, cuts, start, stop)
            assert aggregate(listed, cuts, start, stop).buckets == said, (zone, interval, start, stop)
            assert aggregate(listed, cuts, start, stop, raw_only=True).buckets == said, (zone, interval)


def test_rollups_are_used_where_they_serve(field: RollupTenant, filled: Callable[[int], list[Any]]) -> None:
    filled(3)
    listed = list(Series.objects.order_by("pk"))[4:]  # of a device to which nothing came late

    def planned(interval: str, zone: str, start: datetime = BEGIN) -> tuple[int, int, int]:
        cuts = interval_edges(parse_interval(interval), ZoneInfo(zone), start, END, 5000)
        made = read_plan(listed, cuts, start, END)
        return len(made.days), len(made.hours), len(made.raw)

    assert planned("1d", "UTC") == (1, 1, 0)
    assert planned("1d", "Asia/Seoul") == planned("1h", "Asia/Seoul") == (0, 1, 0)
    assert planned("1h", "Asia/Kolkata") == planned("15m", "UTC") == (0, 0, 1)
    assert planned("1d", "Asia/Kolkata") == (0, 32 + 1, 32)  # the hour with midnight in it from the readings
    assert planned("1d", "UTC", BEGIN + HOUR / 2) == (1, 2, 1)
    # The counts come from the rollups: otherwise this would be the count of the readings.
    with connection.cursor() as cursor:
        cursor.execute("UPDATE telemetry_readingday SET count = 1000000")
    cuts = interval_edges(parse_interval("1d"), ZoneInfo("UTC"), BEGIN, END, 5000)
    counts = [bucket.count for bucket in aggregate(listed, cuts, BEGIN, END).buckets[listed[0].pk].values()]
    assert counts.count(1000000) > 20
    assert aggregate(listed, cuts, BEGIN, END).rolled_from == BEGIN


@pytest.mark.parametrize("minutes", [20, 30, 45, 60, 75])
def test_a_range_ends_anywhere_in_an_hour(
    field: RollupTenant, filled: Callable[[int], list[Any]], minutes: int
) -> None:
    rows, listed = filled(4), list(Series.objects.order_by("pk"))
    # A week of Kolkata ends in the middle of an hour of UTC: what follows it in that hour is of another week.
    midnight = datetime(2026, 10, 18, 18, 30, tzinfo=UTC)
    for last in (midnight - HOUR / 2, midnight):
        stop = last + minutes * HOUR / 60
        for interval, zone in (("1w", "Asia/Kolkata"), ("1d", "UTC"), ("1h", "UTC"), ("6h", "Asia/Seoul")):
            cuts = interval_edges(parse_interval(interval), ZoneInfo(zone), BEGIN, stop, 5000)
            said = expected(rows, field.series, cuts, BEGIN, stop)
            assert aggregate(listed, cuts, BEGIN, stop).buckets == said, (interval, zone, stop)


def test_days_of_devices_with_late_readings_are_not_taken(field: RollupTenant) -> None:
    one = Series.objects.get(pk=field.series[0])
    field.store(*((one.pk, BEGIN + n * DAY, float(n)) for n in range(10)))
    aggregation.roll_up(now=BEGIN + 11 * DAY)
    field.store((one.pk, BEGIN + 4 * DAY + HOUR, 100.0))
    stop = BEGIN + 10 * DAY
    cuts = interval_edges(parse_interval("1mo"), ZoneInfo("UTC"), BEGIN, stop, 10)
    made = read_plan([one], cuts, BEGIN, stop)
    assert (BEGIN + 4 * DAY, BEGIN + 5 * DAY) in made.hours
    total = aggregate([one], cuts, BEGIN, stop).buckets[one.pk]
    assert sum(bucket.count for bucket in total.values()) == 11


def test_booleans_and_texts(field: RollupTenant) -> None:
    device = Series.objects.get(pk=field.series[0]).device
    state = Series.objects.get_or_create(device=device, component="door", metric="open", value_type="boolean")[0]
    words = Series.objects.get_or_create(device=device, component="door", metric="said", value_type="text")[0]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO telemetry_reading (series_id, time, value) VALUES (%s, %s, %s)",
            [(state.pk, BEGIN + n * HOUR / 8, float(n == 1)) for n in range(4)],
        )
        cursor.executemany(
            "INSERT INTO telemetry_reading (series_id, time, text) VALUES (%s, %s, %s)",
            [(words.pk, BEGIN + HOUR * n / 8, text) for n, text in ((1, "a"), (2, "b"), (2, "é"), (9, "c"))],
        )
    found = aggregate([state, words], [BEGIN, BEGIN + HOUR, BEGIN + 2 * HOUR], BEGIN, BEGIN + 2 * HOUR)
    assert found.buckets[state.pk][0].avg == 0.25
    assert found.buckets[words.pk] == {
        0: AggregateBucket(3, None, None, None, "é", BEGIN + HOUR / 4),
        1: AggregateBucket(1, None, None, None, "c", BEGIN + HOUR * 9 / 8),
    }
    assert found.raw_from == BEGIN
    connection.cursor().execute("DELETE FROM telemetry_series WHERE component = 'door'")


def test_absurd_numbers_have_no_sum_and_no_mean(field: RollupTenant) -> None:
    one = Series.objects.get(pk=field.series[0])
    field.store((one.pk, BEGIN, 1.7e308), (one.pk, BEGIN + HOUR / 2, 1.7e308))
    bucket = aggregate([one], [BEGIN, BEGIN + HOUR], BEGIN, BEGIN + HOUR).buckets[one.pk][0]
    assert (bucket.max, bucket.sum, bucket.avg) == (1.7e308, None, None)


def test_a_question_that_is_too_much_work_is_given_up(field: RollupTenant, settings: Any) -> None:
    settings.QUERY_SECONDS = 0.05
    with pytest.raises(QueryTooExpensive), time_limited_queries(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(5)")
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


def test_a_stretch_begins_and_ends_to_the_microsecond(field: RollupTenant) -> None:
    one = Series.objects.get(pk=field.series[0])
    times = [BEGIN - MICROSECOND, BEGIN, BEGIN + HOUR - MICROSECOND, BEGIN + HOUR]
    field.store(*((one.pk, time, float(n)) for n, time in enumerate(times)))
    found = aggregate([one], [BEGIN, BEGIN + HOUR], BEGIN, BEGIN + HOUR).buckets[one.pk]
    assert [(number, bucket.count, bucket.last) for number, bucket in found.items()] == [(0, 2, 2.0)]
    assert aggregates.aggregate([], [BEGIN, END], BEGIN, END).buckets == {}
