"""Resumable jobs: rows whose work any process does in steps, and the engine that claims, resumes and cancels them.

The row's `position` says how much is done. A step does its work and moves the position in one transaction, by compare
and set, so a step that dies or runs twice neither loses nor repeats work. A process holds a job by a lease that each
step renews; when the lease of a dead process has ended, another process resumes the job.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import django.db
import psycopg
from django.db import models
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from psycopg import sql
from psycopg.pq import PipelineStatus

from . import tasks
from .database import current_schema
from .retry import Backoff

# The states that the engine sets and reads; a model's choices may have others before them.
WAITING, RUNNING, DONE, CANCELLED = "waiting", "running", "done", "cancelled"
UNDER_WAY = (WAITING, RUNNING)


class Superseded(Exception):
    """The job was cancelled, or another process has moved it on: nothing of this step was done."""


class Blocked(Exception):
    """The next step cannot be done yet, and nothing of it was done. The message is the job's note."""


class ResumableJob(models.Model):
    """Base of jobs whose steps move `position`; the work before it is done."""

    position = models.BigIntegerField(default=0, editable=False)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        abstract = True

    def step_condition(self) -> dict[str, Any]:
        """Return the columns' values that the row must still have for a step to count."""
        return {"position": self.position}

    def renewal(self) -> dict[str, Any]:
        """Return the columns that each step sets beside its own; none without a lease."""
        return {}


class QueuedJob(ResumableJob):
    """Base of jobs that the workers do: claimed for `LEASE`, and resumed by another worker after it.

    A subclass defines `state` with choices that include the engine's states, `note`, and `total`.
    """

    LEASE: ClassVar[timedelta] = timedelta(seconds=60)

    state: Any
    note: Any
    total: Any
    created_at = models.DateTimeField(_("started"), auto_now_add=True)
    created_by_label = models.CharField(_("started by"), max_length=150)
    # The end of the lease; in the past until a process claims the job.
    claimed_until = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        abstract = True

    @property
    def is_under_way(self) -> bool:
        """Whether it waits or runs."""
        return self.state in UNDER_WAY

    @property
    def settled(self) -> int:
        """How many of `total` are done."""
        return int(self.position)

    @property
    def percent(self) -> int:
        """How much is done, rounded down: 100 means all."""
        if self.state == DONE:
            return 100
        return min(99, 100 * self.settled // self.total) if self.total else 0

    def step_condition(self) -> dict[str, Any]:
        return {"position": self.position, "state": RUNNING}

    def renewal(self) -> dict[str, Any]:
        self.claimed_until = timezone.now() + self.LEASE
        return {"note": "", "claimed_until": self.claimed_until}

    def values_when_done(self) -> dict[str, Any]:
        """Return the columns that change when the job is done, beside its state."""
        return {}


Resumable = TypeVar("Resumable", bound=ResumableJob)
Queued = TypeVar("Queued", bound=QueuedJob)
# Does the next step of a job; False: none was left. Raises Blocked and Superseded.
Step = Callable[[], bool]


# --- Steps -----------------------------------------------------------------------------------------------------------


def lock(job: Resumable, *deferred: str) -> Resumable:
    """Lock the job's row for a step in the current transaction; return it as it is now, without the deferred columns.

    Raises Superseded.
    """
    locked = _same_step(job).select_for_update().defer(*deferred).first()
    if locked is None:
        raise Superseded
    return locked


def advance(job: ResumableJob, **values: Any) -> dict[str, Any]:
    """Set `values`, `position` among them, in the transaction of the step's work; return all values that were set.

    The object in memory is unchanged: `assign` them after the commit. Raises Superseded.
    """
    values = {**job.renewal(), **values}
    if not _same_step(job).update(**values):
        raise Superseded
    return values


def advance_on(connection: psycopg.Connection, schema: str, job: ResumableJob, **values: Any) -> dict[str, Any]:
    """Do what `advance` does, on a connection outside of Django's in the midst of a transaction.

    In a pipeline, whose results come later, Superseded cannot be raised: the transaction fails with DivisionByZero.
    """
    values = {**job.renewal(), **values}
    try:
        connection.execute(*_statement(schema, job, values))
    except psycopg.errors.DivisionByZero:
        if connection.info.pipeline_status != PipelineStatus.OFF:
            raise  # It may be the error of an earlier statement.
        raise Superseded from None
    return values


def assign(job: ResumableJob, values: Mapping[str, Any]) -> None:
    """Set the values of a step that was committed in the object in memory."""
    for name, value in values.items():
        setattr(job, name, value)


def _same_step(job: Resumable) -> QuerySet[Resumable]:
    return type(job)._default_manager.filter(pk=job.pk, **job.step_condition())


def _statement(schema: str, job: ResumableJob, values: Mapping[str, Any]) -> tuple[sql.Composed, list[Any]]:
    """Return an UPDATE that fails with a division by zero where the row is not as it was, and its parameters."""
    condition = {"id": job.pk, **job.step_condition()}
    statement = sql.SQL(
        "WITH moved AS (UPDATE {} SET {} WHERE {} RETURNING 1) SELECT 1 / count(*)::int FROM moved"
    ).format(
        sql.Identifier(schema, job._meta.db_table),
        sql.SQL(", ").join(_equals(job, name) for name in values),
        sql.SQL(" AND ").join(_equals(job, name) for name in condition),
    )
    return statement, [_stored(job, name, value) for name, value in (*values.items(), *condition.items())]


def _equals(job: ResumableJob, name: str) -> sql.Composed:
    return sql.SQL("{} = %s").format(sql.Identifier(_field(job, name).column))


def _stored(job: ResumableJob, name: str, value: Any) -> Any:
    return _field(job, name).get_db_prep_save(value, django.db.connection)


def _field(job: ResumableJob, name: str) -> Any:
    return job._meta.get_field(name)


# --- Claims and leases -----------------------------------------------------------------------------------------------


def under_way(model: type[Queued]) -> QuerySet[Queued]:
    """Return the jobs of the current schema that wait or run."""
    return model._default_manager.filter(state__in=UNDER_WAY)


def has_room(model: type[QueuedJob], most: int) -> bool:
    """Return whether fewer than `most` jobs of the current schema wait or run.

    Must be called in the transaction that begins another one: until its end no other request can begin any.
    """
    with django.db.connection.cursor() as cursor:
        key = f"{model._meta.db_table}:{current_schema()}"
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('gwanje_jobs'), hashtext(%s))", [key])
    return under_way(model).count() < most


def claim(model: type[Queued], job_id: int) -> Queued | None:
    """Claim a job for its lease; None where it is not under way, or another process holds it."""
    now = timezone.now()
    free = under_way(model).filter(pk=job_id, claimed_until__lte=now)
    if not free.update(state=RUNNING, claimed_until=now + model.LEASE):
        return None
    return model._default_manager.get(pk=job_id)


def release(job: Queued) -> None:
    """End the lease that this process has, so that another may go on at once."""
    # A lease that another process got after this one's is later.
    mine = type(job)._default_manager.filter(pk=job.pk, state=RUNNING, claimed_until__lte=job.claimed_until)
    mine.update(claimed_until=timezone.now())


def finish(job: QueuedJob) -> None:
    """Record that nothing is left to do. Raises Superseded."""
    values = {"state": DONE, "finished_at": timezone.now(), "note": "", **job.values_when_done()}
    if not _same_step(job).update(**values):
        raise Superseded
    assign(job, values)


def cancel(job: QueuedJob) -> bool:
    """Stop the job after the step that is being done; False: it had ended before. What is done stays done."""
    changed = {"state": CANCELLED, "finished_at": timezone.now(), "note": ""}
    return bool(under_way(type(job)).filter(pk=job.pk).update(**changed))


def enqueue_idle(model: type[QueuedJob], task: str) -> int:
    """Queue the task for each job of the current schema that no process holds; return how many."""
    idle = list(under_way(model).filter(claimed_until__lt=timezone.now()).values_list("pk", flat=True))
    for pk in idle:
        tasks.enqueue(task, pk)
    return len(idle)


# --- A worker's turn -------------------------------------------------------------------------------------------------


def work(
    model: type[Queued],
    job_id: int,
    open_steps: Callable[[Queued], AbstractContextManager[Step]],
    *,
    seconds: float,
    backoff: Backoff | None = None,
    report: Callable[[Queued], None] | None = None,
    task: str = "",
) -> str:
    """Claim a job and do its steps for some seconds; return how far it is, in words for the queue's log.

    What is left is queued as `task`, where one is given, unless the job is blocked: it is resumed by `enqueue_idle`.
    Such a job ends earlier while tasks of other tenants wait (`tasks.Turn`). A blocked job is tried again after the
    pauses of `backoff`, and left at once without one. `report` is called after each step.
    """
    job = claim(model, job_id)
    if job is None:
        return "nothing to do"
    try:
        with open_steps(job) as step:
            has_more = _repeat(job, step, tasks.Turn(seconds, may_yield=bool(task)), backoff, report)
    except Superseded:
        return "resumed by another process, or cancelled"
    finally:
        release(job)
    if has_more and task:
        tasks.enqueue(task, job.pk)
    return f"{job.settled} of {job.total}"


def _repeat(
    job: Queued, step: Step, turn: tasks.Turn, backoff: Backoff | None, report: Callable[[Queued], None] | None
) -> bool:
    """Do steps until the turn is over; return whether more can be done at once. Raises Superseded."""
    has_more, is_blocked = True, False
    while has_more and not turn.is_over():
        try:
            has_more, is_blocked = step(), False
        except Blocked as error:
            assign(job, advance(job, note=str(error)))
            if backoff is None:
                return False
            is_blocked = True
            time.sleep(min(backoff.fail(), turn.remaining))
        else:
            if backoff is not None:
                backoff.reset()
        if not has_more:
            finish(job)
        if report is not None:
            report(job)
    return has_more and not is_blocked
