"""Replays of the quarantine as people ask for them: begun, done step by step, cancelled.

A step is ended anywhere, or runs twice at a time, without harm: messages leave the quarantine in the transaction that
stores them, and the replay's own counts and position move in it too. Everything is in the current schema.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from devices.models import Device
from devices.services import audit
from telemetry.models import Quarantined, Reason, Replay
from telemetry.services.ingest.batch_pipeline import Ingest, build_ingest
from telemetry.services.ingest.reprocessing import NEVER, Kept, Replayed, kept_of, replay_batch
from telemetry.services.storage.statements import per_schema, run
from tenants.infrastructure import jobs
from tenants.infrastructure.schema_context import current_schema

logger = logging.getLogger(__name__)

State = Replay.State
STEP = "telemetry.services.quarantine.replays.step"
UNDER_WAY = (State.WAITING, State.RUNNING)
MOST_CHOSEN = 1000
# A tenant's replays share the workers with everybody's tasks.
MOST_AT_ONCE = 5
_BATCH = 200
# A step ends long before the queue takes its worker for lost, so that others' tasks get their turn.
_SECONDS = 60.0
# Nobody else goes on with a replay while its process is heard of so often.
_CLAIM = timedelta(seconds=60)
_PAUSE_SECONDS = (0.2, 5.0)
# A key that cannot be had for so long while Vault answers is waited for no more.
_KEY_SECONDS = 30.0

_WAITS = {
    "tables": "Waits: the tenant's tables are locked.",
    "keys": "Waits: Vault does not answer, and keys are missing.",
}
_NOTE = per_schema(
    "UPDATE {replay} SET position = $3, stored = stored + $4, duplicates = duplicates + $5, refused = $6::jsonb,"
    " note = '', claimed_until = now() + $7 WHERE id = $1 AND position = $2 AND state = 'running'",
    replay="telemetry_replay",
)


class Superseded(Exception):
    """The replay was cancelled, or another process goes on with it: nothing of this batch was done."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages of the quarantine; what is empty narrows nothing. Times are of when they last came."""

    reason: str = ""
    device: Device | None = None
    topic: str = ""
    start: datetime | None = None
    stop: datetime | None = None
    chosen: Sequence[int] = field(default_factory=tuple)

    def rows(self) -> QuerySet[Quarantined]:
        """The messages, without those that can never be replayed."""
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
        return Quarantined.objects.filter(bounds).exclude(reason__in=NEVER)


def selection_of(replay: Replay) -> Selection:
    """What the replay was begun with."""
    return Selection(replay.reason, replay.device, replay.topic, replay.start, replay.stop, replay.chosen)


def begin(selection: Selection, *, acting_user: audit.Actor = None, queue: bool = True) -> Replay:
    """Begin a replay of what is in the quarantine now; workers do it, unless `queue` is False.

    Raises ValidationError where the messages can never be replayed, or too many replays are under way.
    """
    if selection.reason in NEVER:
        label = Reason(selection.reason).label
        raise ValidationError(
            {"reason": _("Messages with this reason (%(reason)s) can never be replayed.") % {"reason": label}}
        )
    if len(selection.chosen) > MOST_CHOSEN:
        raise ValidationError({"ids": _("Choose at most %(most)d, or say which by a filter.") % {"most": MOST_CHOSEN}})
    if Replay.objects.filter(state__in=UNDER_WAY).count() >= MOST_AT_ONCE:
        raise ValidationError(
            _("%(most)d replays are under way already: wait for one to end, or cancel it.") % {"most": MOST_AT_ONCE}
        )
    with transaction.atomic():
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
            transaction.on_commit(lambda: jobs.enqueue(STEP, replay.pk))
    return replay


def cancel(replay: Replay, *, acting_user: audit.Actor = None) -> bool:
    """Stop the replay after the batch that is being done; what is done stays done. False: it had ended before."""
    with transaction.atomic():
        changed = {"state": State.CANCELLED, "finished_at": timezone.now(), "note": ""}
        won = Replay.objects.filter(pk=replay.pk, state__in=UNDER_WAY).update(**changed)
        if won:
            audit.record(acting_user, "cancel replay", replay)
    replay.refresh_from_db()
    return bool(won)


def step(replay_id: int, *, report: Callable[[Replay], None] | None = None, queue: bool = True) -> str:
    """Go on with a replay for a while; what it says afterwards. What is left is queued, unless `queue` is False.

    `report` is called after every batch. Raises what a lost database raises; the replay then goes on later.
    """
    replay = _claim(replay_id)
    if replay is None:
        return "nothing to do"
    ingest = build_ingest()
    try:
        has_more = _Step(ingest, replay, report or (lambda _: None)).run()
        ingest.tick(last=True)
    except Superseded:
        return "goes on elsewhere, or is cancelled"
    finally:
        ingest.close()
        Replay.objects.filter(pk=replay_id, state=State.RUNNING).update(claimed_until=timezone.now())
    if has_more and queue:
        jobs.enqueue(STEP, replay_id)
    return f"{replay.settled} of {replay.total}"


def resume() -> int:
    """Queue a step of each replay that nobody is at; how many."""
    idle = Replay.objects.filter(state__in=UNDER_WAY, claimed_until__lt=timezone.now())
    for pk in idle.values_list("pk", flat=True):
        jobs.enqueue(STEP, pk)
    return len(idle)


def _claim(replay_id: int) -> Replay | None:
    """The replay, if it is under way and nobody is at it."""
    now = timezone.now()
    free = Replay.objects.filter(pk=replay_id, state__in=UNDER_WAY, claimed_until__lte=now)
    if not free.update(state=State.RUNNING, claimed_until=now + _CLAIM):
        return None
    return Replay.objects.select_related("device").get(pk=replay_id)


class _Step:
    """One process' part of a replay."""

    def __init__(self, ingest: Ingest, replay: Replay, report: Callable[[Replay], None]) -> None:
        self._ingest = ingest
        self._replay = replay
        self._report = report
        self._schema = current_schema()
        self._rows = selection_of(replay).rows().filter(pk__lte=replay.until_id).order_by("pk")
        self._noted = Replayed()  # of the batch
        self._waiting_since: float | None = None
        self._pause = _PAUSE_SECONDS[0]

    def run(self) -> bool:
        """Whether there is more to do, and it may be done at once. Raises Superseded."""
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            batch = self._next()
            if not batch:
                self._finish()
                return False
            if self._do(batch):
                self._waiting_since, self._pause = None, _PAUSE_SECONDS[0]
            else:
                time.sleep(min(self._pause, max(0.0, until - time.monotonic())))
                self._pause = min(2 * self._pause, _PAUSE_SECONDS[1])
            self._ingest.tick()
            self._report(self._replay)
        # What waits for another is looked after by the next round, and holds no worker until then.
        return self._waiting_since is None

    def _next(self) -> list[Kept]:
        after = self._rows.filter(pk__gt=self._replay.position)
        return kept_of(after.values_list("pk", "reason", "topic", "payload", "first_received_at")[:_BATCH])

    def _do(self, batch: Sequence[Kept]) -> bool:
        """Settle a batch; False when it has to wait."""
        waited = 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since
        patient = self._ingest.keyring.is_paused or waited < _KEY_SECONDS
        self._noted = Replayed()
        result = replay_batch(self._ingest, self._schema, batch, note=self._note, wait_for_keys=patient)
        if result.waiting:
            self._waiting_since = self._waiting_since or time.monotonic()
            self._save(note=_WAITS[result.waiting_for], claimed_until=timezone.now() + _CLAIM)
            return False
        # What could not be stored at all is in no transaction, and what is gone neither.
        missed = {reason: times - self._noted.refused.get(reason, 0) for reason, times in result.refused.items()}
        if any(missed.values()) or self._replay.position < batch[-1].pk:
            refused = _sum(self._replay.refused, missed)
            self._save(position=batch[-1].pk, refused=refused, claimed_until=timezone.now() + _CLAIM)
        return True

    def _note(self, connection: psycopg.Connection, kept: Sequence[Kept], result: Replayed) -> None:
        """In the transaction that settles them: count them, and move on behind them."""
        replay = self._replay
        refused = _sum(replay.refused, result.refused)
        found = run(
            connection,
            _NOTE(self._schema),
            [replay.pk, replay.position, kept[-1].pk, result.stored, result.duplicates, json.dumps(refused), _CLAIM],
        )
        if not found.rowcount:
            raise Superseded
        replay.position, replay.refused = kept[-1].pk, refused
        replay.stored += result.stored
        replay.duplicates += result.duplicates
        self._noted.add(result)

    def _save(self, **values: object) -> None:
        """Change the replay's row. Raises Superseded where it is not this process' any more."""
        mine = Replay.objects.filter(pk=self._replay.pk, state=State.RUNNING, position=self._replay.position)
        if not mine.update(**values):
            raise Superseded
        for name, value in values.items():
            setattr(self._replay, name, value)

    def _finish(self) -> None:
        self._save(state=State.DONE, finished_at=timezone.now(), note="")
        self._report(self._replay)
        done = self._replay
        logger.info("Replay %d: %d stored, %d refused again", done.pk, done.stored, done.refused_total)


def _sum(refused: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {
        reason: refused.get(reason, 0) + more.get(reason, 0)
        for reason in (refused | more)
        if refused.get(reason, 0) + more.get(reason, 0)
    }
