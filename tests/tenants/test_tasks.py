"""Tasks run in the schema they were queued in, in a real worker, one after the other."""

from collections.abc import Callable
from typing import Any

from django.db import connection
from django_tenants.utils import schema_context

from tests.processes import Process, wait_until


def whoami() -> str:
    """The task: which schema it finds itself in, by asking the server."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        return str(cursor.fetchone()[0])


def break_down() -> None:
    raise ValueError("on purpose")


def test_tasks_of_two_tenants_in_turn(
    live_db: None, tenant_a: Any, tenant_b: Any, start: Callable[..., Process]
) -> None:
    from django_q.models import Success, Task

    from tenants.infrastructure.tasks import enqueue

    queued = []
    for tenant in (tenant_a, tenant_b) * 3:
        with schema_context(tenant.schema_name):
            queued.append((enqueue("tests.tenants.test_tasks.whoami"), tenant.schema_name))
            enqueue("tests.tenants.test_tasks.break_down")
    worker = start("manage.py", "qcluster")
    ids = [task for task, _ in queued]
    wait_until(lambda: Success.objects.filter(id__in=ids).count() == 6, 180, lambda: worker.log.read_text()[-1500:])
    found = {task.id: task.result for task in Task.objects.filter(id__in=ids)}
    assert [found[task] for task, _ in queued] == [schema for _, schema in queued]


def test_schedules_are_installed_once(live_db: None) -> None:
    from django_q.models import Schedule

    from management.schedules import SCHEDULES, install_schedules

    for _ in range(2):
        assert install_schedules() == len(SCHEDULES)
    assert Schedule.objects.filter(name__in=SCHEDULES).count() == len(SCHEDULES)


def test_a_schedule_that_was_renamed_does_not_run_twice(live_db: None) -> None:
    from django_q.models import Schedule

    from management.schedules import SCHEDULES, install_schedules

    former = {
        "Replays under a former name": "telemetry.services.rounds.resume_replays",
        "Key rotations that are under way": "devices.services.rotation.steps.step_all",
    }
    for name, function in former.items():
        Schedule.objects.create(name=name, func=function, schedule_type=Schedule.MINUTES)
    # Of an operator, one with a function of the product.
    own = {"A report": "operator.tasks.report", "Replays at night": "telemetry.services.periodic_tasks.resume_replays"}
    for name, function in own.items():
        Schedule.objects.create(name=name, func=function, schedule_type=Schedule.MINUTES)
    install_schedules()
    # Those without a name run once; other tests plan some.
    found = dict(Schedule.objects.filter(name__isnull=False).values_list("name", "func"))
    Schedule.objects.filter(name__in=own).delete()
    assert found == own | {name: function for name, (function, _minutes) in SCHEDULES.items()}
