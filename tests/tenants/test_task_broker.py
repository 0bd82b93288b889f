"""The queue of background tasks: every tenant has its turn, whatever another has queued."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from tenants.infrastructure import tasks
from tests.processes import run_at_once


@pytest.fixture(autouse=True)
def empty_queue(live_db: None) -> Iterator[None]:
    from django_q.models import OrmQ

    OrmQ.objects.all().delete()
    yield
    OrmQ.objects.all().delete()


def enqueue(tenant: Any, count: int = 1) -> list[int]:
    """Queue tasks of the tenant; return the ids of their rows."""
    from django_q.models import OrmQ

    before = set(OrmQ.objects.values_list("pk", flat=True))
    with schema_context(tenant.schema_name):
        for _ in range(count):
            tasks.enqueue("tests.tenants.test_tasks.whoami")
    return sorted(set(OrmQ.objects.values_list("pk", flat=True)) - before)


def broker() -> Any:
    from tenants.infrastructure.task_broker import TenantBroker

    return TenantBroker()


def take(queue: Any) -> int:
    ((row_id, payload),) = queue.dequeue()
    assert payload
    return int(row_id)


def test_a_backlog_of_one_tenant_delays_another_by_one_task(tenant_a: Any, tenant_b: Any) -> None:
    many, queue = enqueue(tenant_a, 30), broker()
    taken = [take(queue) for _ in range(3)]
    for row in taken:
        queue.acknowledge(row)
    (single,) = enqueue(tenant_b)
    # The first tenant has no task in progress, and older ones.
    assert single in (take(queue), take(queue))
    assert taken == many[:3]


def test_tenants_are_served_in_turn(tenant_a: Any, tenant_b: Any) -> None:
    first, second, queue = enqueue(tenant_a, 4), enqueue(tenant_b, 4), broker()
    order = []
    for _ in range(8):
        order.append(take(queue))
        queue.acknowledge(order[-1])
    assert order == [row for pair in zip(first, second, strict=True) for row in pair]


def test_a_tenant_with_fewer_tasks_in_progress_comes_first(tenant_a: Any, tenant_b: Any) -> None:
    first = enqueue(tenant_a, 5)
    # Another cluster's broker remembers no turns of this one.
    assert [take(broker()) for _ in range(2)] == first[:2]
    second = enqueue(tenant_b, 2)
    assert [take(broker()) for _ in range(3)] == [second[0], second[1], first[2]]


def test_tasks_of_the_platform_and_of_earlier_revisions_are_in_turn_too(tenant_a: Any) -> None:
    from django_q.models import OrmQ

    enqueue(tenant_a, 5)
    queue = broker()
    tasks.enqueue("tests.tenants.test_tasks.whoami")  # in the schema public
    (platform,) = OrmQ.objects.filter(key="gwanje").values_list("pk", flat=True)
    assert platform in (take(queue), take(queue))
    assert (queue.queue_size(), queue.lock_size()) == (4, 2)
    queue.purge_queue()
    assert queue.queue_size() == 0


def test_no_task_is_taken_twice(tenant_a: Any, tenant_b: Any) -> None:
    rows = [*enqueue(tenant_a, 6), *enqueue(tenant_b, 6)]

    def drain() -> list[int]:
        queue, found = broker(), []
        while (taken := queue.dequeue()) is not None:
            found += [row for row, _payload in taken]
        return found

    taken = [row for found in run_at_once([drain] * 4) for row in found]
    assert sorted(taken) == sorted(rows)


def test_a_task_sees_that_others_wait(tenant_a: Any, tenant_b: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from django_q.conf import Conf

    from tenants.infrastructure.task_broker import others_wait

    monkeypatch.setattr(Conf, "WORKERS", 1)

    def seen() -> bool:
        with schema_context(tenant_a.schema_name):
            return others_wait()

    queue = broker()
    enqueue(tenant_a, 3)
    take(queue)
    assert not seen()
    enqueue(tenant_b)
    assert seen()
    take(queue)  # it is in the worker's queue now: one worker runs the first task
    assert seen()
    monkeypatch.setattr(Conf, "WORKERS", 2)
    assert not seen()


@pytest.mark.parametrize("waits", [False, True])
def test_a_job_gives_its_worker_to_others(
    tenant_a: Any, tenant_b: Any, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """With work of another tenant in the queue it does one step, and is queued again behind it."""
    from django_q.models import OrmQ

    from telemetry.models import Replay
    from tenants.infrastructure import resumable_jobs

    from .test_resumable_jobs import STEPS, steps

    monkeypatch.setattr(tasks, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(tasks, "_LOOK_SECONDS", 0.0)
    if waits:
        enqueue(tenant_b)
    with schema_context(tenant_a.schema_name):
        job = Replay.objects.create(total=STEPS, until_id=STEPS)
        try:
            said = resumable_jobs.work(Replay, job.pk, steps(), seconds=20, task="tests.again")
        finally:
            job.delete()
    assert said == (f"0 of {STEPS}" if waits else f"{STEPS} of {STEPS}")
    keys = list(OrmQ.objects.order_by("pk").values_list("key", flat=True))
    own = [f"gwanje:{tenant_a.schema_name}"] if waits else []
    assert keys == [f"gwanje:{tenant_b.schema_name}"] * waits + own
    connection.close()
