"""Replays of the quarantine: resumable jobs of the current schema that process chosen messages again."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import psycopg
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max, Q, QuerySet
from django.utils.translation import gettext as _

from devices.models import Device
from devices.services import audit
from telemetry.models import Quarantined, Reason, Replay
from telemetry.models.quarantine import NEVER_REPLAYED
from telemetry.services.ingest.batch_pipeline import BatchPipeline, build_pipeline
from telemetry.services.ingest.reprocessing import (
    PAGE_ROWS,
    RefusedRow,
    SettlingResult,
    add_counts,
    next_page,
    replay_page,
)
from tenants.infrastructure import resumable_jobs, tasks
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.retry import Backoff

logger = logging.getLogger(__name__)

STEP = "telemetry.services.quarantine.replays.step"
MOST_CHOSEN = 1000
# A tenant's replays share the workers with the tasks of all tenants.
MOST_AT_ONCE = 5
_BATCH = PAGE_ROWS
# Far less than the time after which the queue considers a worker lost, so that other tasks get their turn.
_SECONDS = 60.0
_PAUSE_SECONDS = (0.2, 5.0)  # shortest and longest
# How long a replay waits for a key that stays unavailable while Vault answers.
_KEY_SECONDS = 30.0

_NOTES = {
    "tables": "Waits: the tenant's tables are locked.",
    "schema": "Waits: the tenant's tables are faulty and must be mended.",
    "keys": "Waits: Vault does not answer, and keys are missing.",
}


@dataclass(frozen=True, slots=True)
class ReplaySelection:
    """Which messages of the quarantine; an empty member selects all. Times are those of the last reception."""

    reason: str = ""
    device: Device | None = None
    topic: str = ""
    start: datetime | None = None
    stop: datetime | None = None
    chosen: Sequence[int] = field(default_factory=tuple)

    def rows(self) -> QuerySet[Quarantined]:
        """Return the messages, without those that can never be replayed."""
        bounds = Q()
        if self.reason:
            bounds &= Q(reason=self.reason)
        if self.device is not None:
            bounds &= Q(device=self.device)
        if self.topic:
            bounds &= Q(topic__icontains=self.topic)
        if self.start is not None:
            bounds &= Q(last_received_at__gte=self.start)
        if self.stop is not None:
            bounds &= Q(last_received_at__lt=self.stop)
        if self.chosen:
            bounds &= Q(pk__in=list(self.chosen))
        return Quarantined.objects.filter(bounds).exclude(reason__in=NEVER_REPLAYED)


def selection_of(replay: Replay) -> ReplaySelection:
    """Return the selection that the replay was begun with."""
    return ReplaySelection(replay.reason, replay.device, replay.topic, replay.start, replay.stop, replay.chosen)


def begin(selection: ReplaySelection, *, acting_user: audit.Actor = None, queue: bool = True) -> Replay:
    """Begin a replay of the messages that are in the quarantine now; workers do it, unless `queue` is False.

    Raises ValidationError where the messages can never be replayed, or too many replays are under way.
    """
    if selection.reason in NEVER_REPLAYED:
        label = Reason(selection.reason).label
        raise ValidationError(
            {"reason": _("Messages with this reason (%(reason)s) can never be replayed.") % {"reason": label}}
        )
    if len(selection.chosen) > MOST_CHOSEN:
        raise ValidationError(
            {
                "ids": _("At most %(most)d messages can be selected; use a filter to select more.")
                % {"most": MOST_CHOSEN}
            }
        )
    with transaction.atomic():
        if not resumable_jobs.has_room(Replay, MOST_AT_ONCE):
            raise ValidationError(
                _("At most %(most)d replays can run at a time; wait until one ends, or cancel one.")
                % {"most": MOST_AT_ONCE},
                ErrorCode.TOO_MANY_REPLAYS,
            )
        rows = selection.rows()
        replay = Replay.objects.create(
            reason=selection.reason,
            device=selection.device,
            topic=selection.topic,
            start=selection.start,
            stop=selection.stop,
            chosen=list(selection.chosen),
            until_id=rows.aggregate(last=Max("pk"))["last"] or 0,
            total=rows.count(),
            created_by_label=audit.label(acting_user),
        )
        audit.record(acting_user, "replay", replay, f"{replay.total} messages")
        if queue:
            transaction.on_commit(lambda: tasks.enqueue(STEP, replay.pk))
    return replay


def cancel(replay: Replay, *, acting_user: audit.Actor = None) -> bool:
    """Stop the replay after its current page; what is done stays done. False: it had ended before."""
    with transaction.atomic():
        won = resumable_jobs.cancel(replay)
        if won:
            audit.record(acting_user, "cancel replay", replay)
    replay.refresh_from_db()
    return won


def step(replay_id: int, *, report: Callable[[Replay], None] | None = None, queue: bool = True) -> str:
    """Do a replay's steps for a while; return how far it is. What is left is queued, unless `queue` is False.

    `report` is called after every page. Raises what a lost database raises; the replay is resumed later.
    """
    return resumable_jobs.work(
        Replay,
        replay_id,
        _open_steps,
        seconds=_SECONDS,
        backoff=Backoff(*_PAUSE_SECONDS),
        report=report,
        task=STEP if queue else "",
    )


def resume() -> int:
    """Queue a step of each replay without a worker; return how many."""
    return resumable_jobs.enqueue_idle(Replay, STEP)


@contextmanager
def _open_steps(replay: Replay) -> Iterator[Callable[[], bool]]:
    pipeline = build_pipeline()
    try:
        yield _ReplaySteps(pipeline, replay).do_next
        pipeline.tick(last=True)
    finally:
        pipeline.close()


class _ReplaySteps:
    """The steps of a replay in one process: each settles a page of messages."""

    def __init__(self, pipeline: BatchPipeline, replay: Replay) -> None:
        self._pipeline = pipeline
        self._replay = replay
        self._schema = current_schema()
        self._rows = selection_of(replay).rows().filter(pk__lte=replay.until_id)
        self._blocked_since: float | None = None

    def do_next(self) -> bool:
        """Settle the next page; False: none is left. Raises Blocked and Superseded."""
        self._pipeline.tick()
        page = next_page(self._rows, self._replay.position, _BATCH)
        if page:
            self._settle(page)
        return bool(page)

    def _settle(self, page: Sequence[RefusedRow]) -> None:
        result = replay_page(
            self._pipeline, self._schema, page, record_progress=self._record, wait_for_keys=self._waits_for_keys()
        )
        if result.waiting:
            self._blocked_since = self._blocked_since or time.monotonic()
            raise resumable_jobs.Blocked(_NOTES[result.waiting_for])
        self._blocked_since = None
        # No transaction has moved the position behind rows that are gone or cannot be stored.
        unstorable = Counter(row.reason for row in result.unstorable)
        if unstorable or self._replay.position < page[-1].pk:
            refused = add_counts(self._replay.refused, unstorable)
            values = resumable_jobs.advance(self._replay, position=page[-1].pk, refused=refused)
            resumable_jobs.assign(self._replay, values)

    def _waits_for_keys(self) -> bool:
        if self._blocked_since is None or self._pipeline.keyring.is_vault_unavailable:
            return True
        return time.monotonic() - self._blocked_since < _KEY_SECONDS

    def _record(
        self, connection: psycopg.Connection, rows: Sequence[RefusedRow], result: SettlingResult
    ) -> Callable[[], None]:
        """Count the rows, and move behind them, in the transaction that settles them."""
        replay = self._replay
        values = resumable_jobs.advance_on(
            connection,
            self._schema,
            replay,
            position=rows[-1].pk,
            stored=replay.stored + result.stored,
            duplicates=replay.duplicates + result.duplicates,
            refused=add_counts(replay.refused, result.refused),
        )
        return partial(resumable_jobs.assign, replay, values)
