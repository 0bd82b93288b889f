"""Retention: expired rows are removed, with their partitions, and no others."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django_tenants.utils import schema_context

from telemetry.models import DeviceSequence, Latest, PackedDay, Reading, ReadingDay, ReadingHour, RetentionSettings
from telemetry.services.latest import values
from telemetry.services.retention import telemetry
from telemetry.services.rollups import aggregation, packing, partitions
from tests.telemetry.rollup_tenant import RollupTenant, make_rollup_tenant, remove_rollup_tenant, rows_of

DAY = timedelta(days=1)
# Not in the first hours of a month, when its first hour is not rolled up yet.
NOW = max(datetime.now(UTC), datetime.now(UTC).replace(day=1, hour=3))


def month(ago: int) -> datetime:
    """The beginning of the month so many months ago."""
    return partitions.month_bounds(partitions.month_before(NOW, ago))[0]


@pytest.fixture(scope="module")
def both(django_db_setup: None, django_db_blocker: Any) -> Iterator[list[RollupTenant]]:
    with django_db_blocker.unblock():
        made = [make_rollup_tenant("retained"), make_rollup_tenant("kept")]
        yield made
        for one in made:
            remove_rollup_tenant(one)
        connection.close()


@pytest.fixture
def fields(live_db: None, both: list[RollupTenant]) -> list[RollupTenant]:
    for one in both:
        with schema_context(one.schema):
            one.clear()
    return both


@pytest.fixture
def field(fields: list[RollupTenant]) -> Iterator[RollupTenant]:
    with schema_context(fields[0].schema):
        yield fields[0]


def fill(field: RollupTenant) -> None:
    """A reading in each of five months and in 1970, rolled up and packed."""
    with field.connect() as own:
        for ago in range(5):
            first = month(ago)
            partitions.create_partitions(own, field.schema, (first.year, first.month), partitions.INGEST_TABLES)
    one = field.series[0]
    old = datetime(1970, 1, 1, 12, tzinfo=UTC)
    field.store((one, old, 0.0), *((one, month(ago), float(ago)) for ago in range(5)))
    aggregation.roll_up(now=NOW)
    packing.pack(now=NOW)


def times(model: Any, column: str) -> list[datetime]:
    return sorted(model.objects.values_list(column, flat=True))


def test_everything_is_kept_unless_it_is_said(field: RollupTenant) -> None:
    fill(field)
    before = rows_of("telemetry_packedday") + rows_of("telemetry_reading")
    assert before == 6
    done = telemetry.apply_retention(now=NOW)
    assert (done["dropped"], done["deleted"]) == (0, 0)
    assert rows_of("telemetry_packedday") + rows_of("telemetry_reading") == before


def test_old_months_go_and_their_rollups_stay(fields: list[RollupTenant], field: RollupTenant) -> None:
    for one in fields:
        with schema_context(one.schema):
            fill(one)
    RetentionSettings(readings_months=2).save()
    done = telemetry.apply_retention(now=NOW)
    assert done["dropped"] >= 4, "two months of readings, and of packed days"
    with connection.cursor() as cursor:
        cursor.execute("SELECT min(time) FROM truth")
    assert times(PackedDay, "day")[0] >= month(2)
    assert not [time for time in times(Reading, "time") if time < month(2)]
    names = partitions.month_partitions(connection.connection, field.schema, partitions.READINGS)
    assert all(name in names for name in [(month(n).year, month(n).month) for n in range(3)])
    assert not [name for name in names if partitions.month_bounds(name)[0] < month(2)]
    assert ReadingHour.objects.count() == 6
    assert ReadingDay.objects.count() >= 5
    with schema_context(fields[1].schema):
        assert rows_of("telemetry_packedday") + rows_of("telemetry_reading") == 6, "the neighbour's"


def test_what_comes_later_than_it_is_kept_goes_with_the_next_run(field: RollupTenant) -> None:
    fill(field)
    RetentionSettings(readings_months=2).save()
    telemetry.apply_retention(now=NOW)
    one, first = field.series[0], month(4)
    with field.connect() as own:
        partitions.Partitions().ensure(own, field.schema, [first])
    # Messages are kept for ever, readings are not.
    name = (first.year, first.month)
    assert name in partitions.month_partitions(connection.connection, field.schema, partitions.MESSAGES)
    assert name not in partitions.month_partitions(connection.connection, field.schema, partitions.READINGS)
    [hour] = ReadingHour.objects.filter(hour=first)
    field.store((one, first, 99.0))
    assert rows_of("telemetry_reading_default") == 1
    assert [(r.count, r.last) for r in aggregation.hourly_rollups([one], first, first + DAY)] == [(1, 4.0)]
    done = telemetry.apply_retention(now=NOW)
    assert done["deleted"] >= 1
    assert rows_of("telemetry_reading_default") == 0
    assert ReadingHour.objects.get(series_id=one, hour=first).last == hour.last, "the rollup knows of the rest"
    assert rows_of("telemetry_latehour") == 0


def test_rollups_and_messages_have_a_retention_of_their_own(field: RollupTenant) -> None:
    fill(field)
    device = next(iter(field.devices))
    with connection.cursor() as cursor:
        for ago in range(4):
            cursor.execute(
                "INSERT INTO telemetry_message VALUES (%s, %s, gen_random_uuid(), now(), 't', '', 1, 1, false)",
                [device, month(ago)],
            )
    RetentionSettings(messages_months=1, readings_months=2, rollups_months=3).save()
    telemetry.apply_retention(now=NOW)
    assert rows_of("telemetry_message") == 2
    assert times(ReadingHour, "hour") == sorted(month(n) for n in range(4))
    assert times(ReadingDay, "day") == sorted(
        d for d in (month(n) for n in range(4)) if d + DAY <= aggregation.day_of(NOW)
    )


def test_the_newest_value_goes_with_its_reading(field: RollupTenant) -> None:
    fill(field)
    one, other = field.series[:2]
    field.store((other, month(4), 7.0))
    aggregation.roll_up(now=NOW)
    values.refill()
    assert values.newest_readings([one, other])[other].value == 7.0
    RetentionSettings(readings_months=2).save()
    telemetry.apply_retention(now=NOW)
    assert set(values.newest_readings([one, other])) == {one}
    assert times(Latest, "series_id") == [one]


def test_a_reader_holds_one_partition_back_and_nothing_else(field: RollupTenant) -> None:
    fill(field)
    RetentionSettings(messages_months=1).save()
    held = partitions.partition_name(partitions.MESSAGES, (month(3).year, month(3).month))
    with field.connect() as own, own.transaction():
        own.execute(f"SELECT 1 FROM {held}")  # noqa: S608
        telemetry.apply_retention(now=NOW)
        names = partitions.month_partitions(connection.connection, field.schema, partitions.MESSAGES).values()
        assert held in names
    telemetry.apply_retention(now=NOW)
    assert held not in partitions.month_partitions(connection.connection, field.schema, partitions.MESSAGES).values()


def test_rollups_may_not_go_before_the_readings(field: RollupTenant) -> None:
    with pytest.raises(ValidationError, match="at least as long"):
        RetentionSettings(readings_months=None, rollups_months=3).full_clean()
    RetentionSettings(readings_months=3, rollups_months=3).full_clean()
    with pytest.raises(IntegrityError), transaction.atomic():
        RetentionSettings(readings_months=4, rollups_months=3).save()


def test_the_next_months_partitions_are_made_ahead(field: RollupTenant) -> None:
    last = month(0) - timedelta(days=1)
    telemetry.apply_retention(now=last)
    for table in (*partitions.INGEST_TABLES, partitions.HOURS):
        assert (month(0).year, month(0).month) in partitions.month_partitions(
            connection.connection, field.schema, table
        )


def test_a_device_with_many_gaps_keeps_the_newest(field: RollupTenant) -> None:
    device = next(iter(field.devices))
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO telemetry_devicesequence (device_id, boot, seen)"
            " SELECT %s, boot, range_agg(int8range(2 * n, 2 * n, '[]'))"
            " FROM generate_series(1, 20) n, (VALUES (1), (2)) AS b(boot) WHERE boot = 1 OR n <= 5 GROUP BY boot",
            [device],
        )
        assert telemetry.compact_sequences(most=5) == 1
        cursor.execute("SELECT seen::text FROM telemetry_devicesequence WHERE device_id = %s ORDER BY boot", [device])
        assert [row for (row,) in cursor.fetchall()] == [
            "{[2,33),[34,35),[36,37),[38,39),[40,41)}",
            "{[2,3),[4,5),[6,7),[8,9),[10,11)}",
        ]
        assert telemetry.compact_sequences(most=5) == 0
    DeviceSequence.objects.filter(device_id=device).delete()
