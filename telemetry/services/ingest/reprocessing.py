"""Quarantined messages judged again, at the time at which they came, so that a replay is no sign of life.

A batch is one transaction: what is accepted now is stored and leaves the quarantine together, so that a replay that
is killed half-way, or two at once, neither lose a message nor store one twice. What is refused again stays, with the
reason that it is refused for now.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import psycopg

from telemetry.models import Reason
from telemetry.services.pipeline.processing import fingerprint
from telemetry.services.pipeline.refusal import Refused
from telemetry.services.pipeline.results import Incoming, Judged, Outcome, RefusedItem
from telemetry.services.storage.statements import per_schema, run
from tenants.infrastructure.database import is_busy

from .batch_pipeline import Ingest
from .validation import Busy

logger = logging.getLogger(__name__)

# A signature that was wrong stays wrong.
NEVER = frozenset({Reason.BAD_SIGNATURE.value})

_TABLES = {"quarantined": "telemetry_quarantined", "totals": "telemetry_ingesttotals"}
# What was counted as quarantined has now been received and counted anew.
_LEAVE = per_schema(
    "WITH gone AS (DELETE FROM {quarantined} WHERE id = ANY($1)"
    " RETURNING (first_received_at AT TIME ZONE 'UTC')::date AS day, times),"
    " sums AS (SELECT day, sum(times) AS times FROM gone GROUP BY day)"
    " UPDATE {totals} AS t SET received = t.received - sums.times, quarantined = t.quarantined - sums.times,"
    " replayed = t.replayed + sums.times FROM sums WHERE t.day = sums.day",
    **_TABLES,
)
_LOCK = per_schema("SELECT id FROM {quarantined} WHERE id = ANY($1) ORDER BY id FOR UPDATE", **_TABLES)
_SAY_WHY = per_schema("UPDATE {quarantined} SET detail = $2 WHERE id = $1", **_TABLES)
# Under its new reason it is another row, which may be there already.
_MOVE = per_schema(
    "WITH old AS (DELETE FROM {quarantined} WHERE id = $1 RETURNING *)"
    " INSERT INTO {quarantined} AS q (fingerprint, reason, detail, topic, payload, device_id, first_received_at,"
    " last_received_at, times) SELECT $2, $3, $4, topic, payload, coalesce($5, device_id), first_received_at,"
    " last_received_at, times FROM old"
    " ON CONFLICT (fingerprint) DO UPDATE SET times = q.times + EXCLUDED.times, detail = EXCLUDED.detail,"
    " first_received_at = least(q.first_received_at, EXCLUDED.first_received_at),"
    " last_received_at = greatest(q.last_received_at, EXCLUDED.last_received_at)",
    **_TABLES,
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A quarantined message."""

    pk: int
    reason: str
    topic: str
    payload: bytes
    received_at: datetime


@dataclass(slots=True)
class Replayed:
    """What became of replayed messages, by their number; `refused` counts the reasons of now."""

    stored: int = 0
    duplicates: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    waiting: int = 0  # nothing was done, for want of what `waiting_for` says: "tables" or "keys"
    waiting_for: str = ""

    def add(self, other: "Replayed") -> None:
        """Add another batch's."""
        self.stored += other.stored
        self.duplicates += other.duplicates
        self.waiting += other.waiting
        self.waiting_for = other.waiting_for or self.waiting_for
        for reason, times in other.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + times


# Called in the transaction that settles the messages, with what becomes of them; what it raises undoes it.
Note = Callable[[psycopg.Connection, Sequence[Kept], Replayed], None]


class _Gone(Exception):
    """Some of the messages have left the quarantine; these are there."""

    def __init__(self, present: set[int]) -> None:
        super().__init__(f"{len(present)} are left")
        self.present = present


def replay_batch(
    ingest: Ingest, schema: str, kept: Sequence[Kept], *, note: Note | None = None, wait_for_keys: bool = False
) -> Replayed:
    """Judge a tenant's quarantined messages again, and settle them in one transaction.

    With `wait_for_keys` nothing is done while a key cannot be had. Raises what a lost database raises; nothing is
    done then.
    """
    kept = [row for row in kept if row.reason not in NEVER]
    judged = ingest.judge_again([Incoming(row.topic, row.payload, row.received_at) for row in kept])
    if any(isinstance(item, Busy) for item in judged):
        return Replayed(waiting=len(kept), waiting_for="tables")
    if wait_for_keys and any(_is_parked(item) for item in judged):
        return Replayed(waiting=len(kept), waiting_for="keys")
    try:
        return _settle(ingest, schema, kept, judged, note)
    except _Gone as error:
        left = [row for row in kept if row.pk in error.present]
        return replay_batch(ingest, schema, left, note=note, wait_for_keys=wait_for_keys) if left else Replayed()
    except psycopg.Error as error:
        if is_busy(error):
            return Replayed(waiting=len(kept), waiting_for="tables")
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or len(kept) == 1:
            raise
    # One of them cannot be stored: the others can.
    result = Replayed()
    for row in kept:
        try:
            result.add(replay_batch(ingest, schema, [row], note=note))
        except psycopg.DataError as failure:
            logger.warning("Message %d of the quarantine of %s cannot be stored: %s", row.pk, schema, failure)
            result.add(Replayed(refused={row.reason: 1}))
    return result


def _is_parked(item: Judged | Busy) -> bool:
    return isinstance(item, RefusedItem) and item.verdict.reason == Reason.KEY_UNAVAILABLE


def _settle(
    ingest: Ingest, schema: str, kept: Sequence[Kept], judged: Sequence[Judged | Busy], note: Note | None
) -> Replayed:
    passed, refused = _sorted(ingest, schema, kept, judged)
    result = Replayed()

    def leave(connection: psycopg.Connection) -> None:
        # Another replay may have settled some of them since they were read.
        present = {pk for (pk,) in run(connection, _LOCK(schema), [[row.pk for row in kept]])}
        if len(present) < len(kept):
            raise _Gone(present)
        run(connection, _LEAVE(schema), [[row.pk for row, _ in passed]])
        for row, item in refused:
            _refuse_again(connection, schema, row, item)

    def count(connection: psycopg.Connection, outcome: Outcome) -> None:
        result.stored, result.duplicates = len(outcome.stored), len(outcome.duplicates)
        # A counter that is found to be used twice is refused only here, and was put into the quarantine anew.
        for item in [*outcome.quarantined, *(item for _, item in refused)]:
            result.refused[item.verdict.reason] = result.refused.get(item.verdict.reason, 0) + 1
        if note is not None:
            note(connection, kept, result)

    outcome = ingest.storage.store(schema, [item for _, item in passed], also=leave, after=count)
    ingest.note_readings(schema, outcome)
    return result


def _sorted(
    ingest: Ingest, schema: str, kept: Sequence[Kept], judged: Sequence[Judged | Busy]
) -> tuple[list[tuple[Kept, Judged]], list[tuple[Kept, RefusedItem]]]:
    """What passes now, and what is refused again."""
    passed: list[tuple[Kept, Judged]] = []
    refused: list[tuple[Kept, RefusedItem]] = []
    for row, item in zip(kept, judged, strict=True):
        if isinstance(item, RefusedItem):
            refused.append((row, item))
        elif not isinstance(item, Busy):
            if item.spec.tenant.schema == schema:
                passed.append((row, item))
            else:  # the device was moved to another tenant meanwhile
                moved = Refused("wrong_tenant", "The device belongs to another tenant now.")
                refused.append((row, RefusedItem(item.incoming, None, moved)))
    # Over the day's quota: they stay, whatever else they are.
    within = ingest.within_limits([item for _, item in passed], replayed=True)
    refused += [(row, item) for (row, _), item in zip(passed, within, strict=True) if isinstance(item, RefusedItem)]
    passed = [(row, item) for (row, _), item in zip(passed, within, strict=True) if not isinstance(item, RefusedItem)]
    return passed, refused


def _refuse_again(connection: psycopg.Connection, schema: str, row: Kept, item: RefusedItem) -> None:
    reason, detail = item.verdict.reason, item.verdict.detail.replace("\x00", "\\0")
    # What wants for a key keeps its reason: parked ones are replayed by themselves, and this one was not.
    if reason in (row.reason, Reason.KEY_UNAVAILABLE):
        run(connection, _SAY_WHY(schema), [row.pk, detail])
        return
    name = UUID(bytes=fingerprint(reason.encode(), row.topic.encode(), row.payload))
    run(connection, _MOVE(schema), [row.pk, name, reason, detail, item.spec.device_id if item.spec else None])


def kept_of(rows: Iterable[tuple[int, str, str, bytes | memoryview, datetime]]) -> list[Kept]:
    """Rows of (id, reason, topic, payload, first received)."""
    return [Kept(pk, reason, topic, bytes(payload), at) for pk, reason, topic, payload, at in rows]
