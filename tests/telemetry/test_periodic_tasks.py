"""The schedules look which tenants have something to do, and a real worker does it, each in its tenant."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from telemetry.models import Latest, PackedDay, ReadingHour, RollupState
from telemetry.services import periodic_tasks
from telemetry.services.latest import redis_scripts, values
from telemetry.services.latest.values import LatestRecorder
from tests.processes import Process, wait_until
from tests.telemetry.rollup_tenant import RollupTenant, make_rollup_tenant, remove_rollup_tenant

NOW = datetime.now(UTC).replace(microsecond=0)
OLD = NOW - timedelta(days=10)


@pytest.fixture(scope="module")
def both(django_db_setup: None, django_db_blocker: Any) -> Iterator[list[RollupTenant]]:
    with django_db_blocker.unblock():
        made = [make_rollup_tenant("busy"), make_rollup_tenant("idle")]
        yield made
        for one in made:
            remove_rollup_tenant(one)
        connection.close()


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(task, schema) as they are queued, without a worker."""
    from tenants.infrastructure.database import current_schema

    tasks: list[tuple[str, str]] = []
    monkeypatch.setattr(
        periodic_tasks, "enqueue", lambda path: tasks.append((path.rpartition(".")[2], current_schema()))
    )
    return tasks


def test_only_tenants_with_something_to_do_are_queued(
    live_db: None, both: list[RollupTenant], queued: list[tuple[str, str]]
) -> None:
    busy, idle = both
    # Listeners of other tests that ended without a word would be given up in the middle of this one.
    get_redis_connection("default").delete(redis_scripts.WRITERS)
    periodic_tasks.roll_up()
    assert {("roll_up_tenant", busy.schema), ("roll_up_tenant", idle.schema)} <= set(queued), "never rolled up"
    for one in both:
        with schema_context(one.schema):
            periodic_tasks.roll_up_tenant()
            periodic_tasks.pack_readings_tenant()
            periodic_tasks.refill_latest_tenant()
    queued.clear()
    for look in (
        periodic_tasks.roll_up,
        periodic_tasks.pack_readings,
        periodic_tasks.refill_latest,
        periodic_tasks.persist_latest,
    ):
        with schema_context("public"):
            look()
    assert not [task for task in queued if task[1] in (busy.schema, idle.schema)]
    busy.store((busy.series[0], OLD, 1.0))
    recorder = LatestRecorder()
    recorder.note(busy.schema, busy.series[0], int(OLD.timestamp()) * 1_000_000, 1.0)
    recorder.close()
    with schema_context("public"):
        periodic_tasks.roll_up()
        periodic_tasks.persist_latest()
    assert [task for task in queued if task[1] in (busy.schema, idle.schema)] == [
        ("roll_up_tenant", busy.schema),
        ("persist_latest_tenant", busy.schema),
    ]
    with schema_context(busy.schema):
        assert periodic_tasks.roll_up_tenant() == {"chunks": 0, "late": 1}
    queued.clear()
    with schema_context("public"):
        periodic_tasks.pack_readings()
        periodic_tasks.refill_latest()
    mine = [task for task in queued if task[1] in (busy.schema, idle.schema)]
    assert ("pack_readings_tenant", busy.schema) in mine
    assert ("pack_readings_tenant", idle.schema) not in mine
    assert ("refill_latest_tenant", idle.schema) in mine, "a listener came"


def test_a_worker_does_it(live_db: None, both: list[RollupTenant], start: Callable[..., Process]) -> None:
    busy, idle = both
    for one in both:
        with schema_context(one.schema):
            one.clear()
    busy.store((busy.series[0], OLD, 3.0))
    worker = start("manage.py", "qcluster")
    periodic_tasks.roll_up()
    periodic_tasks.refill_latest()

    def rolled() -> bool:
        with schema_context(busy.schema):
            return ReadingHour.objects.exists() and RollupState.objects.get().rolled_until is not None

    wait_until(rolled, 180, lambda: worker.log.read_text()[-2000:])
    periodic_tasks.pack_readings()

    def packed() -> bool:
        with schema_context(busy.schema):
            return PackedDay.objects.exists()

    wait_until(packed, 180, lambda: worker.log.read_text()[-2000:])
    wait_until(lambda: not values.incomplete_tenants([busy.schema, idle.schema]), 60)
    redis = get_redis_connection("default")
    assert values.decode_reading(redis.hget(values.values_key(busy.schema), busy.series[0]).decode()).value == 3.0
    assert not redis.hexists(values.values_key(idle.schema), busy.series[0])
    with schema_context(busy.schema):
        assert Latest.objects.get().value == 3.0
    with schema_context(idle.schema):
        assert not ReadingHour.objects.exists()
        assert not Latest.objects.exists()
