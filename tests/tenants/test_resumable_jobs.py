"""The engine of resumable jobs, on the rows of replays with steps of the tests' own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_tenants.utils import schema_context

from tenants.infrastructure import resumable_jobs
from tenants.infrastructure.database import conninfo
from tenants.infrastructure.retry import Backoff
from tests.processes import wait_until

STEPS = 20
ACTION = "test step"
OpenSteps = Callable[[Any], AbstractContextManager[Callable[[], bool]]]


@pytest.fixture
def job(live_db: None, tenant_a: Any) -> Iterator[Any]:
    """A job of `STEPS` steps that no worker has, in the schema of its tenant."""
    from telemetry.models import Replay

    with schema_context(tenant_a.schema_name):
        made = Replay.objects.create(total=STEPS, created_by_label="test")
        yield made
        made.delete()


def steps(before_commit: Callable[[Any], None] = lambda _: None) -> OpenSteps:
    """Steps that leave an audit entry each, and count it in `stored`."""

    @contextmanager
    def open_steps(job: Any) -> Iterator[Callable[[], bool]]:
        def do_next() -> bool:
            if job.position == job.total:
                return False
            with transaction.atomic():
                leave_entry(job)
                values = resumable_jobs.advance(job, position=job.position + 1, stored=job.stored + 1)
                before_commit(job)
            resumable_jobs.assign(job, values)
            return True

        yield do_next

    return open_steps


def leave_entry(job: Any) -> None:
    """The work of a step."""
    from devices.models import AuditEntry

    # Entries of the audit cannot be deleted: those of each job have its name.
    AuditEntry.objects.create(action=ACTION, object_type="job", object_id=str(job.position), object_label=str(job.pk))


def entries(job: Any) -> list[int]:
    """The positions of the job's steps that were done."""
    from devices.models import AuditEntry

    left = AuditEntry.objects.filter(action=ACTION, object_label=str(job.pk))
    return sorted(int(pk) for pk in left.values_list("object_id", flat=True))


def work(job: Any, open_steps: OpenSteps | None = None, seconds: float = 20.0, **options: Any) -> str:
    """A worker's turn at the job."""
    return resumable_jobs.work(type(job), job.pk, open_steps or steps(), seconds=seconds, **options)


def in_threads(schema: str, count: int, call: Callable[[], Any]) -> list[Any]:
    """What the call returned in each of the threads, all of which begin together."""
    results: list[Any] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        try:
            with schema_context(schema):
                barrier.wait(60)
                results.append(call())
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def test_a_job_is_done_step_by_step(job: Any) -> None:
    seen: list[int] = []
    assert work(job, report=lambda now: seen.append(now.percent)) == f"{STEPS} of {STEPS}"
    job.refresh_from_db()
    assert (job.state, job.position, job.stored, job.percent) == ("done", STEPS, STEPS, 100)
    assert job.finished_at is not None
    assert not job.is_under_way
    assert seen == [*range(5, 100, 5), 99, 100]
    assert entries(job) == list(range(STEPS))
    assert work(job) == "nothing to do"


def test_a_claim_is_won_once(job: Any, tenant_a: Any) -> None:
    won = in_threads(tenant_a.schema_name, 4, lambda: resumable_jobs.claim(type(job), job.pk))
    assert len(won) == 4
    assert len([one for one in won if one is not None]) == 1


def test_another_worker_resumes_when_the_lease_of_a_dead_one_ends(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(now: Any) -> None:
        if now.position == 7:
            raise Killed

    monkeypatch.setattr(type(job), "LEASE", timedelta(seconds=1))
    with monkeypatch.context() as dead:
        dead.setattr(resumable_jobs, "release", lambda _: None)  # a killed process releases nothing
        with pytest.raises(Killed):
            work(job, steps(before_commit=die))
    job.refresh_from_db()
    assert (job.state, job.position, job.stored) == ("running", 7, 7)
    assert entries(job) == list(range(7)), "the step that died left nothing"
    assert work(job) == "nothing to do", "the lease of the dead worker has not ended"
    assert wait_until(lambda: work(job) != "nothing to do", 60)
    job.refresh_from_db()
    assert (job.state, job.stored) == ("done", STEPS)
    assert entries(job) == list(range(STEPS))


def test_only_jobs_without_a_worker_are_queued(job: Any) -> None:
    from django_q.models import OrmQ

    OrmQ.objects.all().delete()
    claimed: Any = resumable_jobs.claim(type(job), job.pk)
    assert resumable_jobs.enqueue_idle(type(job), "no.task") == 0
    resumable_jobs.release(claimed)
    assert resumable_jobs.enqueue_idle(type(job), "no.task") == 1
    assert OrmQ.objects.count() == 1
    OrmQ.objects.all().delete()
    assert resumable_jobs.cancel(job)
    assert resumable_jobs.enqueue_idle(type(job), "no.task") == 0


def test_what_is_left_is_queued(job: Any) -> None:
    from django_q.models import OrmQ

    OrmQ.objects.all().delete()
    assert work(job, seconds=0.0, task="no.task") == f"0 of {STEPS}"
    assert OrmQ.objects.count() == 1
    OrmQ.objects.all().delete()
    assert work(job, seconds=0.0) == f"0 of {STEPS}"
    assert OrmQ.objects.count() == 0


def test_a_cancelled_job_ends_between_two_steps(job: Any) -> None:
    def cancel(now: Any) -> None:
        if now.position == 3:
            assert resumable_jobs.cancel(job)

    assert "cancelled" in work(job, report=cancel)
    job.refresh_from_db()
    assert (job.state, job.stored) == ("cancelled", 3)
    assert entries(job) == [0, 1, 2], "what is done stays done"
    assert not resumable_jobs.cancel(job), "it has ended"
    assert work(job) == "nothing to do"


def test_two_workers_at_one_job_count_nothing_twice(job: Any, tenant_a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(job), "LEASE", timedelta(seconds=-1))  # each claim is won, as if the lease had ended
    said = in_threads(tenant_a.schema_name, 3, lambda: work(job))
    assert len(said) == 3
    work(job)
    job.refresh_from_db()
    assert (job.state, job.position, job.stored) == ("done", STEPS, STEPS)
    assert entries(job) == list(range(STEPS))


def test_a_worker_does_not_end_the_lease_of_another(job: Any) -> None:
    late: Any = resumable_jobs.claim(type(job), job.pk)
    type(job).objects.filter(pk=job.pk).update(claimed_until=timezone.now())
    assert resumable_jobs.claim(type(job), job.pk) is not None
    resumable_jobs.release(late)
    assert resumable_jobs.claim(type(job), job.pk) is None


def test_a_blocked_job_waits_and_says_why(job: Any) -> None:
    from django_q.models import OrmQ

    OrmQ.objects.all().delete()
    tries: list[str] = []

    @contextmanager
    def blocked(now: Any) -> Iterator[Callable[[], bool]]:
        def do_next() -> bool:
            tries.append(now.note)
            raise resumable_jobs.Blocked("The table is locked.")

        yield do_next

    assert work(job, blocked, seconds=5.0, task="no.task") == f"0 of {STEPS}"
    assert tries == [""], "without a backoff it is left at once"
    backoff = Backoff(0.05, 0.1)
    assert work(job, blocked, seconds=0.5, backoff=backoff, task="no.task") == f"0 of {STEPS}"
    assert 4 <= len(tries) <= 10
    assert OrmQ.objects.count() == 0, "it is resumed later"
    job.refresh_from_db()
    assert (job.state, job.note) == ("running", "The table is locked.")
    assert work(job) == f"{STEPS} of {STEPS}"
    job.refresh_from_db()
    assert job.note == ""


def test_a_step_on_another_connection_moves_the_job_once(job: Any, tenant_a: Any) -> None:
    claimed: Any = resumable_jobs.claim(type(job), job.pk)
    refused = {"malformed": 2}
    with psycopg.connect(conninfo()) as own:

        def advance() -> dict[str, Any]:
            with own.transaction():
                return resumable_jobs.advance_on(
                    own, tenant_a.schema_name, claimed, position=9, stored=4, refused=refused
                )

        values = advance()
        with pytest.raises(resumable_jobs.Superseded):
            advance()
        job.refresh_from_db()
        assert (job.position, job.stored, job.refused) == (9, 4, refused)
        resumable_jobs.assign(claimed, values)
        assert resumable_jobs.cancel(job)
        with pytest.raises(resumable_jobs.Superseded):
            advance()
        with pytest.raises(psycopg.errors.DivisionByZero), own.transaction(), own.pipeline():
            resumable_jobs.advance_on(own, tenant_a.schema_name, claimed, position=10)
    job.refresh_from_db()
    assert (job.state, job.position) == ("cancelled", 9)
