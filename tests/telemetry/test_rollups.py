"""Rollups say what the readings say: after late data, beside writers, and after workers were killed."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection
from django_tenants.utils import schema_context

from telemetry.services.rollups import aggregation, packing
from telemetry.services.work_lock import WorkLockBusy, work_state
from tests import payloads
from tests.factories import Registered
from tests.telemetry.rollup_tenant import (
    RollupTenant,
    Row,
    differences,
    make_rollup_tenant,
    numbers,
    remove_rollup_tenant,
    truth,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOW = datetime.now(UTC)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture(scope="module")
def made(django_db_setup: None, django_db_blocker: Any) -> Iterator[RollupTenant]:
    with django_db_blocker.unblock():
        made = make_rollup_tenant("rolled")
        yield made
        remove_rollup_tenant(made)
        connection.close()


@pytest.fixture
def field(live_db: None, made: RollupTenant) -> Iterator[RollupTenant]:
    with schema_context(made.schema):
        made.clear()
        yield made


def run(now: datetime) -> dict[str, int]:
    return aggregation.roll_up(now=now)


def stored_hours(start: datetime, stop: datetime) -> str:
    """The rollups as they are, whatever readers make of them."""
    return "(SELECT * FROM telemetry_readinghour WHERE hour >= %(start)s AND hour < %(stop)s)"


def test_an_hour_is_rolled_up_some_minutes_after_its_end(field: RollupTenant) -> None:
    one = field.series[0]
    began = MIDNIGHT - DAY
    field.store((one, began, 1.0), (one, began, 3.0), (one, began + HOUR / 2, 2.0), (one, began + HOUR, 9.0))
    run(began + HOUR + aggregation.SETTLED_AFTER - timedelta(seconds=1))
    assert work_state().rolled_until == began
    run(began + HOUR + aggregation.SETTLED_AFTER)
    assert work_state().rolled_until == began + HOUR
    with connection.cursor() as cursor:
        cursor.execute("SELECT hour, count, min, max, sum, last, last_at FROM telemetry_readinghour")
        assert cursor.fetchall() == [(began, 3, 1.0, 3.0, 6.0, 2.0, began + HOUR / 2)]
    # The running hour is worked out from its readings.
    assert [(r.start, r.count, r.last) for r in aggregation.hourly_rollups([one], began, began + DAY)] == [
        (began, 3, 2.0),
        (began + HOUR, 1, 9.0),
    ]


def test_the_greater_of_two_values_of_one_instant_is_the_last(field: RollupTenant) -> None:
    one = field.series[0]
    field.store((one, MIDNIGHT - DAY, 5.0), (one, MIDNIGHT - DAY, 7.0), (one, MIDNIGHT - DAY, 6.0))
    run(NOW)
    assert [r.last for r in aggregation.hourly_rollups([one], MIDNIGHT - DAY, MIDNIGHT)] == [7.0]


def test_a_day_is_made_when_its_hours_are(field: RollupTenant) -> None:
    one = field.series[0]
    day = MIDNIGHT - 3 * DAY
    field.store(*((one, day + n * HOUR + HOUR / 3, float(n)) for n in range(24)))
    days = "SELECT day, count, min, max, sum, last, last_at FROM telemetry_readingday"
    with connection.cursor() as cursor:
        run(day + 23 * HOUR + aggregation.SETTLED_AFTER)
        cursor.execute(days)
        assert cursor.fetchall() == []
        run(day + DAY + aggregation.SETTLED_AFTER)
        cursor.execute(days)
        assert cursor.fetchall() == [(day, 24, 0.0, 23.0, 276.0, 23.0, day + 23 * HOUR + HOUR / 3)]
        field.store((one, day + HOUR / 2, -5.0))
        assert run(day + DAY + aggregation.SETTLED_AFTER)["late"] == 1
        cursor.execute(days)
        assert cursor.fetchall() == [(day, 25, -5.0, 23.0, 271.0, 23.0, day + 23 * HOUR + HOUR / 3)]


def test_what_comes_late_is_read_at_once_and_rolled_up_next(field: RollupTenant) -> None:
    one = field.series[0]
    hour = MIDNIGHT - 2 * DAY
    field.store((one, hour, 1.0))
    run(NOW)
    field.store((one, hour + HOUR / 2, 2.0), (one, hour + 5 * HOUR, 4.0))
    assert differences(field, hour, MIDNIGHT) == []
    assert differences(field, hour, MIDNIGHT, stored_hours(hour, MIDNIGHT)), "it was not rolled up yet"
    assert run(NOW)["late"] == 2
    assert differences(field, hour, MIDNIGHT, stored_hours(hour, MIDNIGHT)) == []
    assert run(NOW) == {"chunks": 0, "late": 0}


def test_without_its_mark_a_late_reading_is_missed(field: RollupTenant) -> None:
    """That the comparison can fail."""
    one = field.series[0]
    hour = MIDNIGHT - 2 * DAY
    field.store((one, hour, 1.0))
    run(NOW)
    with field.connect() as own:
        field.insert(own, [(one, hour + HOUR / 2, 2.0)])
    run(NOW)
    assert differences(field, hour, MIDNIGHT)


def test_years_without_readings_are_passed_over(field: RollupTenant) -> None:
    one = field.series[0]
    old = datetime(1970, 1, 1, 12, tzinfo=UTC)
    field.store((one, old, 1.0), (one, MIDNIGHT - DAY, 2.0))
    assert run(NOW)["chunks"] <= 6
    assert differences(field, old.replace(hour=0), MIDNIGHT, stored_hours(old, MIDNIGHT)) == []
    assert work_state().rolled_until == aggregation.hour_of(NOW - aggregation.SETTLED_AFTER)


def test_numbers_too_large_to_be_added_hold_nothing_up(field: RollupTenant) -> None:
    one, other = field.series[:2]
    field.store((one, MIDNIGHT - DAY, 1.7e308), (one, MIDNIGHT - DAY + HOUR / 2, 1.7e308), (other, MIDNIGHT - DAY, 1.0))
    run(NOW)
    assert [(r.count, r.max, r.sum) for r in aggregation.hourly_rollups([one, other], MIDNIGHT - DAY, MIDNIGHT)] == [
        (2, 1.7e308, None),
        (1, 1.0, 1.0),
    ]


def test_a_mark_that_is_renewed_while_it_is_worked_on_stays(field: RollupTenant) -> None:
    one = field.series[0]
    hour = MIDNIGHT - DAY
    field.store((one, hour, 1.0))
    run(NOW)
    field.store((one, hour + HOUR / 2, 2.0))
    with field.connect() as own:
        done: list[Any] = []
        with own.transaction():
            # The batch has inserted and marked, and is not committed: the worker waits for it with the removal.
            field.insert(own, [(one, hour + HOUR / 3, 3.0)])
            aggregation.mark_late(own, field.schema, {(field.device_of(one), hour)})
            worker = _in_thread(field, lambda: done.append(aggregation.roll_up(now=NOW)))
            time.sleep(0.3)
            assert not done
        worker.join()
    assert differences(field, hour, MIDNIGHT, stored_hours(hour, MIDNIGHT)) == []


def test_an_insert_under_way_holds_the_hour_back(field: RollupTenant, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has inserted without marking, because nothing was rolled up: the hour must wait for it."""
    monkeypatch.setattr(aggregation, "_LOCK_ATTEMPTS", 2)
    one = field.series[0]
    with field.connect() as own, own.transaction():
        field.insert(own, [(one, MIDNIGHT - DAY, 1.0)])
        aggregation.mark_late(own, field.schema, {(field.device_of(one), MIDNIGHT - DAY)})
        with pytest.raises(WorkLockBusy):
            run(NOW)
        assert work_state().marked_until is None
    run(NOW)
    assert differences(field, MIDNIGHT - DAY, MIDNIGHT, stored_hours(MIDNIGHT - DAY, MIDNIGHT)) == []


class Sim:
    """The time that the worker believes in; it runs so that hours and days close during the test."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.stopped = threading.Event()
        self.errors: list[BaseException] = []
        self.kills = 0
        self.reads = 0


def _in_thread(field: RollupTenant, work: Callable[[], object], sim: Sim | None = None) -> threading.Thread:
    def body() -> None:
        try:
            with schema_context(field.schema):
                work()
        except BaseException as error:  # noqa: BLE001 (told to the test)
            if sim is not None:
                sim.errors.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def _write(field: RollupTenant, sim: Sim, rng: random.Random) -> None:
    """Batches of readings of the last three days and the running hour, some of them a second time."""
    sent: list[Row] = []
    with field.connect() as own:
        while not sim.stopped.is_set():
            rows = []
            for _ in range(rng.randint(1, 20)):
                ago = rng.choice((0.0, 30.0, rng.uniform(0, 7200), rng.uniform(0, 3 * 86400)))
                at = (sim.now - timedelta(seconds=ago)).replace(microsecond=rng.choice((0, 250_000, 123_457)))
                rows.append((rng.choice(field.series), at, float(rng.randint(-5, 5)) / 4))
            rows += rng.sample(sent, min(len(sent), 3))
            with own.transaction():
                field.insert(own, sorted(rows))
                time.sleep(rng.choice((0, 0, 0.002, 0.02)))
                settled = sim.now - timedelta(seconds=60)
                late = {(field.device_of(series), at) for series, at, _ in rows if at < settled}
                aggregation.mark_late(own, field.schema, late)
                time.sleep(rng.choice((0, 0, 0.002)))
            sent = (sent + rows)[-2000:]


def _work(sim: Sim, pids: dict[int, int]) -> None:
    while not sim.stopped.is_set():
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                pids[threading.get_ident()] = cursor.fetchone()[0]
            aggregation.roll_up(now=sim.now)
            packing.pack(now=sim.now)
        except WorkLockBusy:
            continue
        except (DatabaseError, psycopg.Error):
            sim.kills += 1
            connection.close()


def _read(field: RollupTenant, sim: Sim, start: datetime) -> None:
    while not sim.stopped.is_set():
        found = differences(field, start, aggregation.hour_of(sim.now) + 2 * HOUR)
        assert not found, found[:3]
        sim.reads += 1


@pytest.mark.parametrize("seed", [1, 2])
def test_rollups_are_right_at_every_moment(field: RollupTenant, settings: Any, seed: int) -> None:
    """Writers, two workers that are killed now and then, and a reader that compares, all at once."""
    settings.READINGS_PACK_AFTER_DAYS = 1
    rng = random.Random(seed)
    sim = Sim(MIDNIGHT - 2 * DAY + 20 * HOUR)
    start = MIDNIGHT - 6 * DAY
    pids: dict[int, int] = {}
    writers = [partial(_write, field, sim, random.Random(seed * 10 + n)) for n in range(3)]
    threads = [_in_thread(field, write, sim) for write in writers]
    threads += [_in_thread(field, lambda: _work(sim, pids), sim) for _ in range(2)]
    threads += [_in_thread(field, lambda: _read(field, sim, start), sim)]
    with field.connect() as own:
        for _ in range(40):
            time.sleep(0.1)
            sim.now += timedelta(minutes=45)
            if rng.random() < 0.5 and pids:
                own.execute("SELECT pg_terminate_backend(%s)", [rng.choice(list(pids.values()))])
    sim.stopped.set()
    for thread in threads:
        thread.join()
    assert sim.errors == []
    assert sim.kills > 3
    assert sim.reads > 3
    aggregation.roll_up(now=sim.now)
    packing.pack(now=sim.now)
    aggregation.roll_up(now=sim.now)
    _check_at_rest(field, start)


def _check_at_rest(field: RollupTenant, start: datetime) -> None:
    until = work_state().rolled_until
    assert until is not None
    assert differences(field, start, until, stored_hours(start, until)) == []
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM telemetry_latehour WHERE hour < %s", [until])
        assert cursor.fetchone() == (0,)
        cursor.execute("SELECT count(*) FROM telemetry_packedday")
        assert cursor.fetchone() > (0,)
        cursor.execute("SELECT series_id, day, count, min, max, sum FROM telemetry_readingday ORDER BY 1, 2")
        days = cursor.fetchall()
        cursor.execute(
            "SELECT series_id, date_trunc('day', time, 'UTC'), count(*), min(value), max(value), sum(value)"
            " FROM truth WHERE time < %s GROUP BY 1, 2 ORDER BY 1, 2",
            [aggregation.day_of(until)],
        )
        assert days == cursor.fetchall()
        assert numbers() == truth()
        cursor.execute(
            "SELECT DISTINCT ON (series_id) series_id, time, value FROM truth WHERE time < %s"
            " ORDER BY series_id, time DESC, value DESC",
            [until],
        )
        newest = cursor.fetchall()
        cursor.execute("SELECT series_id, time, value FROM telemetry_latest ORDER BY 1")
        assert cursor.fetchall() == newest


def test_ingest_marks_what_it_stores_late(register: Callable[..., Registered]) -> None:
    from telemetry.models import LateHour, Series
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    device = register()
    ingest = build_pipeline()

    def send(*ago: float) -> None:
        now = datetime.now(UTC)
        ingest.process(
            [Incoming(payloads.topic(device), payloads.v1(device, {"temp": n % 50}, ago=n), now) for n in ago]
        )

    try:
        with schema_context(device.tenant.schema_name):
            send(0)
            aggregation.roll_up()
            send(5, 3 * 3600, 3 * 3600 + 1)
            marked = set(LateHour.objects.filter(device_id=device.device.pk).values_list("hour", flat=True))
            assert {hour_of_ago(3 * 3600), hour_of_ago(3 * 3600 + 1)} & marked
            assert len(marked) <= 2, "what is young is rolled up with its hour"
            # Enough of them to go by COPY, in one batch.
            send(*(4 * 3600 + n / 100 for n in range(150)))
            aggregation.roll_up()
            assert not LateHour.objects.filter(device_id=device.device.pk).exists()
            [series] = Series.objects.filter(device=device.device)
            returned = aggregation.hourly_rollups([series.pk], hour_of_ago(6 * 3600), hour_of_ago(0) + HOUR)
            assert sum(hour.count for hour in returned) == 154
            with connection.cursor() as cursor:
                cursor.execute("SELECT sum(count) FROM telemetry_readinghour WHERE series_id = %s", [series.pk])
                assert cursor.fetchone()[0] >= 152
    finally:
        ingest.close()


def hour_of_ago(seconds: float) -> datetime:
    return aggregation.hour_of(datetime.now(UTC) - timedelta(seconds=seconds))
