"""Packed days are read as the others are, whole and once; space comes back."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from telemetry.models import PackedDay, Reading, Series
from telemetry.services.queries import readings
from telemetry.services.rollups import aggregation, packing, partitions
from telemetry.services.work_lock import work_state
from tests.telemetry.rollup_tenant import (
    RollupTenant,
    make_rollup_tenant,
    numbers,
    remove_rollup_tenant,
    rows_of,
    truth,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOW = datetime.now(UTC)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
OLD = MIDNIGHT - 10 * DAY


@pytest.fixture(scope="module")
def made(django_db_setup: None, django_db_blocker: Any) -> Iterator[RollupTenant]:
    with django_db_blocker.unblock():
        made = make_rollup_tenant("packed")
        yield made
        remove_rollup_tenant(made)
        connection.close()


@pytest.fixture
def field(live_db: None, made: RollupTenant) -> Iterator[RollupTenant]:
    with schema_context(made.schema):
        made.clear()
        yield made


def text_series(field: RollupTenant) -> Series:
    device = next(iter(field.devices))
    return Series.objects.get_or_create(device_id=device, component="door", metric="state", value_type="text")[0]


def pack() -> dict[str, int]:
    aggregation.roll_up(now=NOW)
    return packing.pack(now=NOW)


def test_a_day_is_packed_to_the_microsecond(field: RollupTenant) -> None:
    one, other = field.series[:2]
    last = OLD + DAY - timedelta(microseconds=1)
    field.store(
        (one, OLD, 1.0),
        (one, OLD, 0.1),
        (one, OLD + timedelta(microseconds=1), -2.5),
        (one, last, 1e-300),
        (other, OLD + timedelta(milliseconds=86_399_999), 3.0),
        (one, OLD + DAY, 4.0),
        (one, MIDNIGHT, 5.0),
    )
    before = truth()
    assert numbers() == before
    assert pack() == {"days": 2, "packed": 3, "emptied": 0}
    assert numbers() == before
    assert Reading.objects.count() == 1, "the young one stays as it is"
    assert PackedDay.objects.get(series_id=one, day=OLD).count == 4
    assert PackedDay.objects.get(series_id=other, day=OLD).micros is None
    assert pack() == {"days": 0, "packed": 0, "emptied": 0}


def test_what_comes_late_joins_its_day(field: RollupTenant) -> None:
    one = field.series[0]
    field.store((one, OLD, 1.0), (one, OLD + HOUR, 2.0))
    pack()
    # A new one, and one that is packed, in another message.
    field.store((one, OLD + HOUR / 2, 1.5), (one, OLD + HOUR, 2.0))
    assert Reading.objects.count() == 2
    assert numbers() == truth()
    assert len(truth()) == 3
    assert pack()["packed"] == 1
    assert Reading.objects.count() == 0
    assert numbers() == truth()


def test_a_day_that_is_not_rolled_up_is_not_packed(field: RollupTenant) -> None:
    field.store((field.series[0], OLD, 1.0))
    assert packing.pack(now=NOW)["days"] == 0
    aggregation.roll_up(now=OLD + 30 * HOUR)
    assert packing.pack(now=NOW)["days"] == 1


def test_nothing_is_packed_where_it_is_not_wanted(field: RollupTenant, settings: Any) -> None:
    settings.READINGS_PACK_AFTER_DAYS = 0
    field.store((field.series[0], OLD, 1.0))
    assert pack()["days"] == 0
    assert work_state().packed_until is None


def test_texts_stay(field: RollupTenant) -> None:
    text = text_series(field)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO telemetry_reading VALUES (%s, %s, NULL, 'open')", [text.pk, OLD])
    field.store((field.series[0], OLD, 1.0))
    pack()
    assert [(r.series_id, r.text) for r in Reading.objects.all()] == [(text.pk, "open")]


def test_pages_go_through_packed_days_and_others_in_order(field: RollupTenant) -> None:
    listed = list(Series.objects.filter(pk__in=field.series[:2]))
    rows = [(one.pk, OLD + n * HOUR, float(n % 7)) for one in listed for n in range(8 * 24)]
    field.store(*rows, (listed[0].pk, OLD + HOUR, 9.0))
    pack()
    assert PackedDay.objects.count() > 0
    assert Reading.objects.count() > 0
    # One that is packed comes again, and one that is not.
    field.store((listed[0].pk, OLD + HOUR, 1.0), (listed[0].pk, OLD + HOUR + timedelta(seconds=1), 1.0))
    wanted = sorted((time, series, value) for series, time, value in truth())
    for limit in (1, 7, 100, 1000):
        found: list[Any] = []
        after = None
        while page := readings.readings(listed, after=after, limit=limit):
            found += [(row.time, row.series, row.value) for row in page]
            after = readings.ReadingPosition(page[-1].time, page[-1].series, page[-1].key)
            if limit == 1 and len(found) > 60:
                break
        assert found == wanted[: len(found)]
        assert limit == 1 or len(found) == len(wanted)
    between = readings.readings(listed, start=OLD + HOUR, stop=OLD + 30 * HOUR, limit=1000)
    assert [(r.time, r.series, r.value) for r in between] == [
        row for row in wanted if OLD + HOUR <= row[0] < OLD + 30 * HOUR
    ]


def test_the_newest_and_the_hours_of_packed_days(field: RollupTenant) -> None:
    one = field.series[0]
    field.store((one, OLD, 1.0), (one, OLD + timedelta(seconds=3, microseconds=5), 4.0))
    pack()
    field.store((one, OLD + timedelta(seconds=2), 3.0))
    [hour] = aggregation.hourly_rollups([one], OLD, OLD + DAY)
    assert (hour.count, hour.sum, hour.last, hour.last_at) == (3, 8.0, 4.0, OLD + timedelta(seconds=3, microseconds=5))
    device = Series.objects.select_related("device").get(pk=one).device
    [newest] = readings.latest_values(device)
    assert (newest.value, newest.time) == (4.0, OLD + timedelta(seconds=3, microseconds=5))


def test_a_packed_month_gives_its_space_back(field: RollupTenant) -> None:
    month = partitions.month_bounds(partitions.month_before(NOW, 2))[0]
    name = partitions.partition_name(partitions.READINGS, (month.year, month.month))
    with field.connect() as own:
        partitions.create_partitions(own, field.schema, (month.year, month.month), partitions.INGEST_TABLES)
    text = text_series(field)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO telemetry_reading SELECT %s, %s::timestamptz + n * interval '1 minute', n"
            " FROM generate_series(1, 40000) n",
            [field.series[0], month],
        )
        cursor.execute("INSERT INTO telemetry_reading VALUES (%s, %s, NULL, 'open')", [text.pk, month])
        before = numbers()
        cursor.execute("SELECT pg_relation_size(%s::regclass)", [name])
        assert cursor.fetchone()[0] > 1_000_000
        assert pack()["emptied"] == 1
        cursor.execute("SELECT pg_relation_size(%s::regclass)", [name])
        assert cursor.fetchone()[0] < 20_000
    assert numbers() == before
    assert Reading.objects.filter(text="open").count() == 1
    assert rows_of(name) == 1
    assert pack()["emptied"] == 0
