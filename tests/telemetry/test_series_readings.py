"""Readings of many series by pages: all of them, each once, in the order of a plain Python sort."""

import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from telemetry.models import Series
from telemetry.services.queries import series_readings as module
from telemetry.services.queries.metric_series import SeriesFilter
from telemetry.services.queries.series_readings import SeriesPage, series_readings
from telemetry.services.rollups import aggregation, packing
from tests.telemetry.rollup_tenant import RollupTenant, make_rollup_tenant, remove_rollup_tenant

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
BEGIN = datetime(2026, 9, 28, tzinfo=UTC)  # so that the range has the boundary of a month in it
END = BEGIN + 12 * DAY
Row = tuple[int, str, str, datetime, int, Any]  # device, component, metric, time, series, value


@pytest.fixture(scope="module")
def made(django_db_setup: None, django_db_blocker: Any) -> Iterator[RollupTenant]:
    with django_db_blocker.unblock():
        made = make_rollup_tenant("listed", devices=7)
        yield made
        remove_rollup_tenant(made)
        connection.close()


@pytest.fixture
def stored(live_db: None, made: RollupTenant) -> Iterator[list[Row]]:
    """Random readings, packed in part, of series of which some have none, one a second unit, and one texts."""
    chance = random.Random(5)
    with schema_context(made.schema):
        made.clear()
        first = Series.objects.get(pk=made.series[0])
        fahrenheit, _ = Series.objects.get_or_create(
            device=first.device, component="dht22", metric=first.metric, unit="°F", value_type="number"
        )
        words, _ = Series.objects.get_or_create(
            device=first.device, component="dht22", metric=first.metric, value_type="text"
        )
        made.devices[first.device_id] = [*made.devices[first.device_id][:2], fahrenheit.pk]
        span = int((END - BEGIN).total_seconds())
        rows = [
            (one, BEGIN + timedelta(seconds=chance.randrange(span)), float(chance.randrange(100)))
            for one in chance.choices(made.series[:-3], weights=[9, 1, 1, 30, *[1] * (len(made.series) - 7)], k=900)
        ]
        rows += [(one, rows[0][1], value) for one in made.series[:3] for value in (1.5, 2.5)]
        texts = [(words.pk, time, chance.choice("abc")) for _, time, _ in rows[:20]]
        made.store(*rows)
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO telemetry_reading (series_id, time, text) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                texts,
            )
        aggregation.roll_up(now=END)
        packing.pack(now=END)
        made.store(*((one, time, value) for one, time, value in rows[:5]))  # again: in both places
        names = {one.pk: (one.device_id, one.component, one.metric) for one in Series.objects.all()}
        assert any(one.device_id == first.device_id and one.unit for one in Series.objects.all())
        yield sorted(
            ((*names[one], time, one, value) for one, time, value in {*rows, *texts}),
            key=lambda row: (*row[:5], hashlib.md5(row[5].encode()).hexdigest() if isinstance(row[5], str) else row[5]),  # noqa: S324
        )
        made.clear()


def followed(limit: int, **query: Any) -> list[Row]:
    """All pages; `devices` are the ids by UUID."""
    found, after, ids = [], None, {}
    for one in Series.objects.select_related("device"):
        ids[one.device.uuid] = one.device_id
    while True:
        page: SeriesPage = series_readings(query.get("selection", SeriesFilter()), after=after, limit=limit, **{
            name: query[name] for name in ("start", "stop") if name in query
        })  # fmt: skip
        assert len(page.readings) <= limit
        found += [
            (ids[one.device], one.component, one.metric, one.row.time, one.row.series, one.row.value)
            for one in page.readings
        ]
        after = page.end
        if after is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 7, 50, 333, 1000])
def test_pages_have_all_readings_once_and_in_order(stored: list[Row], limit: int) -> None:
    assert followed(limit) == stored


@pytest.mark.parametrize("limit", [3, 100])
@pytest.mark.parametrize(
    ("start", "stop"),
    [(BEGIN, BEGIN + HOUR), (BEGIN + 3 * DAY + HOUR / 3, BEGIN + 5 * DAY), (None, BEGIN + 2 * DAY), (END - DAY, None)],
)
def test_pages_of_a_range(stored: list[Row], start: Any, stop: Any, limit: int) -> None:
    wanted = [row for row in stored if (start is None or row[3] >= start) and (stop is None or row[3] < stop)]
    assert followed(limit, start=start, stop=stop) == wanted


def test_pages_of_some_devices_components_and_metrics(stored: list[Row], made: RollupTenant) -> None:
    some = list(made.devices)[1:4]
    for selection, matches in (
        (SeriesFilter(devices=some), lambda row: row[0] in some),
        (SeriesFilter(metrics=["humidity"]), lambda row: row[2] == "humidity"),
        (SeriesFilter(devices=some[:1], components=["dht22"], metrics=["temperature", "humidity"]),
         lambda row: row[0] == some[0]),
        (SeriesFilter(devices=[]), lambda _row: False),
        (SeriesFilter(component_types=["dht22"]), lambda _row: False),  # the devices have no components
    ):  # fmt: skip
        assert followed(11, selection=selection) == [row for row in stored if matches(row)]


def test_a_page_ends_after_many_metrics_without_readings(stored: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_METRICS", 3)
    page = series_readings(SeriesFilter(), start=END + DAY, limit=10)
    assert page.readings == []
    assert page.end is not None
    assert followed(10, start=END + DAY) == []
    assert followed(10) == stored


def test_readings_that_arrive_between_two_pages_shift_nothing(stored: list[Row], made: RollupTenant) -> None:
    first = series_readings(SeriesFilter(), limit=40)
    assert first.end is not None
    assert first.end.reading is not None
    last = first.readings[-1].row
    made.store((last.series, last.time - HOUR, 1.0), (last.series, last.time + timedelta(microseconds=1), 7.0))
    following = series_readings(SeriesFilter(), after=first.end, limit=1)
    assert [one.row.value for one in following.readings] == [7.0]
