"""The newest value of a series is the newest that was stored, whatever Redis went through."""

import time as clock
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from telemetry.models import Latest, Series
from telemetry.services import periodic_tasks
from telemetry.services.latest import redis_scripts
from telemetry.services.latest import values as latest
from telemetry.services.latest.values import LatestRecorder, newest_readings
from telemetry.services.rollups import aggregation, packing
from telemetry.services.rollups.latest_table import NewestReading
from tests.redis_recovery import wait_for_redis
from tests.telemetry.rollup_tenant import RollupTenant, make_rollup_tenant, remove_rollup_tenant

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NOW = datetime.now(UTC).replace(microsecond=123_457)
OLD = NOW - timedelta(days=10)


@pytest.fixture(scope="module")
def made(django_db_setup: None, django_db_blocker: Any) -> Iterator[RollupTenant]:
    with django_db_blocker.unblock():
        made = make_rollup_tenant("newest")
        yield made
        remove_rollup_tenant(made)
        connection.close()


@pytest.fixture
def field(live_db: None, made: RollupTenant) -> Iterator[RollupTenant]:
    empty_redis()
    with schema_context(made.schema):
        made.clear()
        yield made
    empty_redis()


def empty_redis() -> None:
    """What a restart of Redis without its data leaves of it."""
    redis = get_redis_connection("default")
    for name in redis.scan_iter("telemetry_latest*"):
        redis.delete(name)


@pytest.fixture
def recorder() -> Iterator[LatestRecorder]:
    made = LatestRecorder()
    yield made
    made.close()


def micros(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND


def hear(field: RollupTenant, recorder: LatestRecorder, *rows: tuple[int, datetime, float]) -> None:
    """A batch is stored, and noted."""
    field.store(*rows)
    for series, time, value in rows:
        recorder.note(field.schema, series, micros(time), value)


def values(field: RollupTenant) -> dict[int, tuple[datetime, float | str]]:
    return {pk: (one.time, one.value) for pk, one in newest_readings(field.series).items()}


def is_trusted(field: RollupTenant) -> bool:
    return latest._read_redis(field.series)[0]


def test_the_newest_comes_from_redis(field: RollupTenant, recorder: LatestRecorder) -> None:
    one, other, third, *_ = field.series
    hear(field, recorder, (one, NOW, 1.0), (other, NOW - MICROSECOND, 2.5), (one, NOW - timedelta(hours=3), 7.0))
    recorder.flush()
    assert not is_trusted(field), "it was never completed"
    latest.refill()
    assert is_trusted(field)
    assert values(field) == {one: (NOW, 1.0), other: (NOW - MICROSECOND, 2.5)}
    # Redis alone knows of this one.
    recorder.note(field.schema, third, micros(NOW), 3.0)
    recorder.flush()
    assert values(field)[third] == (NOW, 3.0)
    with CaptureQueriesContext(connection) as queries:
        newest_readings([one, other, third])
    assert len([query for query in queries if not query["sql"].startswith("SET")]) == 1
    # PostgreSQL plans a statement over the readings for all months that are kept.
    assert not any("telemetry_reading" in query["sql"] for query in queries)


def test_a_listener_that_may_have_missed_something_is_not_believed(
    field: RollupTenant, recorder: LatestRecorder
) -> None:
    one, *_ = field.series
    hear(field, recorder, (one, NOW, 1.0))
    recorder.flush()
    latest.refill()
    # Stored, and the answer to its commit was lost.
    field.store((one, NOW + MICROSECOND, 2.0))
    recorder.mark_incomplete()
    recorder.flush()
    assert not is_trusted(field)
    assert values(field)[one] == (NOW + MICROSECOND, 2.0)
    latest.refill()
    assert is_trusted(field)


def test_it_only_moves_forward_over_several_listeners(field: RollupTenant, recorder: LatestRecorder) -> None:
    one, other, *_ = field.series
    second = LatestRecorder()
    hear(field, recorder, (one, NOW, 1.0), (other, NOW, 1.0))
    hear(field, second, (one, NOW - MICROSECOND, 9.0), (other, NOW, 10.0))
    recorder.flush()
    second.flush()
    latest.refill()
    hear(field, recorder, (other, NOW, -2.0), (one, OLD, 5.0))
    recorder.flush()
    second.close()
    assert values(field) == {one: (NOW, 1.0), other: (NOW, 10.0)}
    latest.persist()
    assert dict(Latest.objects.values_list("series_id", "value")) == {one: 1.0, other: 10.0}


def test_redis_emptied(field: RollupTenant, recorder: LatestRecorder) -> None:
    one, other, *_ = field.series
    hear(field, recorder, (one, NOW, 1.0), (other, OLD, 2.0))
    recorder.flush()
    latest.refill()
    empty_redis()
    assert not is_trusted(field)
    assert values(field) == {one: (NOW, 1.0), other: (OLD, 2.0)}
    hear(field, recorder, (one, NOW + MICROSECOND, 3.0))
    recorder.flush()
    assert values(field) == {one: (NOW + MICROSECOND, 3.0), other: (OLD, 2.0)}
    assert field.schema in latest.incomplete_tenants([field.schema])
    latest.refill()
    assert is_trusted(field)
    assert values(field) == {one: (NOW + MICROSECOND, 3.0), other: (OLD, 2.0)}


def test_a_listener_that_dies_before_it_told_redis(
    field: RollupTenant, recorder: LatestRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = field.series[0]
    hear(field, recorder, (one, NOW, 1.0))
    recorder.flush()
    latest.refill()
    assert is_trusted(field)
    hear(field, recorder, (one, NOW + MICROSECOND, 2.0))  # and dies
    redis = get_redis_connection("default")
    [(writer, beat)] = redis.hgetall(redis_scripts.WRITERS).items()
    redis.hset(redis_scripts.WRITERS, writer, float(beat) - 6)
    assert not is_trusted(field)
    assert values(field) == {one: (NOW + MICROSECOND, 2.0)}
    redis.hset(redis_scripts.WRITERS, writer, float(beat) - 60)
    latest.expire_stopped_listeners()
    assert redis.hgetall(redis_scripts.WRITERS) == {}
    assert not is_trusted(field), "until it is completed"
    latest.refill()
    assert is_trusted(field)
    assert values(field) == {one: (NOW + MICROSECOND, 2.0)}
    # It was not dead after all: it is a new one, and what it still had goes in.
    recorder.note(field.schema, one, micros(NOW) + 2, 3.0)
    recorder.flush()
    assert not is_trusted(field)
    assert values(field) == {one: (NOW + 2 * MICROSECOND, 3.0)}


def test_a_listener_that_starts_ends_the_generation(field: RollupTenant, recorder: LatestRecorder) -> None:
    """The one before it may have died without a trace."""
    latest.refill()
    assert is_trusted(field)
    LatestRecorder().close()
    assert not is_trusted(field)


def seconds_of(call: Callable[[], None]) -> float:
    began = clock.monotonic()
    call()
    return clock.monotonic() - began


def test_redis_away_costs_nothing_but_newness(
    field: RollupTenant, recorder: LatestRecorder, stack: EmbeddedStack
) -> None:
    one, other, *_ = field.series
    hear(field, recorder, (one, NOW, 1.0))
    recorder.flush()
    latest.refill()
    stack.stop_server("valkey")
    try:
        hear(field, recorder, (one, NOW + MICROSECOND, 2.0), (other, NOW, 3.0))
        recorder.flush()
        assert min(seconds_of(recorder.flush) for _ in range(5)) < 0.4, "it does not knock again at once"
        assert values(field) == {one: (NOW + MICROSECOND, 2.0), other: (NOW, 3.0)}
    finally:
        stack.start_server("valkey")
        wait_for_redis()
    recorder._paused_until = 0.0
    recorder.flush()
    assert not is_trusted(field), "Redis may have lost earlier values"
    latest.refill()
    assert values(field) == {one: (NOW + MICROSECOND, 2.0), other: (NOW, 3.0)}


def test_what_is_known_to_nobody_is_looked_up(field: RollupTenant, recorder: LatestRecorder) -> None:
    latest.refill()
    one, other, *_ = field.series
    field.store((one, OLD, 4.0), (one, OLD, 2.0), (other, NOW, 1.0))
    assert is_trusted(field)
    assert values(field) == {one: (OLD, 4.0), other: (NOW, 1.0)}
    aggregation.roll_up(now=NOW)
    packing.pack(now=NOW)
    Latest.objects.all().delete()
    assert values(field) == {one: (OLD, 4.0), other: (NOW, 1.0)}


def test_late_data_that_nobody_noted(field: RollupTenant, recorder: LatestRecorder) -> None:
    """A restore, or an import: rollups bring it to the table."""
    one = field.series[0]
    field.store((one, OLD, 1.0))
    aggregation.roll_up(now=NOW)
    latest.refill()
    field.store((one, OLD + timedelta(days=1), 2.0))
    aggregation.roll_up(now=NOW)
    assert is_trusted(field)
    assert values(field) == {one: (OLD + timedelta(days=1), 2.0)}


def test_texts(field: RollupTenant, recorder: LatestRecorder) -> None:
    device = next(iter(field.devices))
    text, _ = Series.objects.get_or_create(device_id=device, component="door", metric="state", value_type="text")
    said = ["offen 열림", "n1", "", "two\nlines | 1", "offen 열려"]
    with connection.cursor() as cursor:
        for one in said:
            cursor.execute("INSERT INTO telemetry_reading VALUES (%s, %s, NULL, %s)", [text.pk, NOW, one])
    greatest = NewestReading(NOW, max(said))
    assert newest_readings([text.pk]) == {text.pk: greatest}
    for one in said:
        recorder.note(field.schema, text.pk, micros(NOW), one)
        recorder.flush()
    kept = get_redis_connection("default").hget(latest.values_key(field.schema), text.pk)
    assert latest.decode_reading(kept.decode()) == greatest
    latest.persist()
    assert Latest.objects.get(series_id=text.pk).text == greatest.value
    for one in said:
        recorder.note(field.schema, text.pk, micros(NOW) - 1, one)
    recorder.flush()
    latest.persist()
    assert newest_readings([text.pk]) == {text.pk: greatest}
    Latest.objects.all().delete()
    aggregation.roll_up(now=NOW + timedelta(hours=2))
    assert Latest.objects.get(series_id=text.pk).text == greatest.value, "rollups bring texts as well"


def test_a_move_that_is_killed_is_made_good(
    field: RollupTenant, recorder: LatestRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = field.series[0]
    hear(field, recorder, (one, NOW, 1.0))
    recorder.flush()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("telemetry.services.rollups.latest_table.advance", die)
        with pytest.raises(KeyboardInterrupt):
            latest.persist()
    assert Latest.objects.count() == 0
    assert latest.persist() == 1
    assert Latest.objects.get(series_id=one).value == 1.0
    assert latest.persist() == 0


def test_tenants_that_are_gone_leave_nothing(field: RollupTenant, recorder: LatestRecorder, tenant_a: Any) -> None:
    for schema in ("t_gone", field.schema):
        recorder.note(schema, 1, micros(NOW), 1.0)
    recorder.flush()
    with schema_context("public"):
        periodic_tasks.persist_latest()
    redis = get_redis_connection("default")
    assert not redis.exists(latest.values_key("t_gone"), latest.changed_key("t_gone"))
    assert redis.exists(latest.values_key(field.schema))


def test_a_tenant_sees_its_own(field: RollupTenant, recorder: LatestRecorder, tenant_b: Any) -> None:
    one = field.series[0]
    recorder.note("t_another", one, micros(NOW), 666.0)
    hear(field, recorder, (one, OLD, 1.0))
    recorder.flush()
    assert values(field) == {one: (OLD, 1.0)}
