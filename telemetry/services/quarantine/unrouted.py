"""Messages of no tenant whose device has been registered meanwhile: they move to its tenant, through the pipeline.

What passes is stored there, what is refused goes into the tenant's quarantine, and what is nobody's still stays. A
batch of a tenant is one transaction: killed half-way, or twice at a time, no message is lost or stored twice.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg
from django_tenants.utils import schema_context

from telemetry.services.ingest.batch_pipeline import Ingest, build_ingest
from telemetry.services.ingest.reprocessing import Kept, kept_of
from telemetry.services.ingest.validation import Busy
from telemetry.services.pipeline.results import Incoming, Judged, Outcome
from telemetry.services.storage.statements import run
from tenants.infrastructure.database import is_busy
from tenants.models import UnroutedMessage

logger = logging.getLogger(__name__)

_BATCH = 200
_PAUSE_SECONDS = 0.5
_LOCK = b"SELECT id FROM public.tenants_unroutedmessage WHERE id = ANY($1) ORDER BY id FOR UPDATE"
_DELETE = b"DELETE FROM public.tenants_unroutedmessage WHERE id = ANY($1)"


@dataclass(slots=True)
class Moved:
    """What became of the messages of no tenant, by their number."""

    seen: int = 0
    stored: int = 0
    duplicates: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # in the quarantine of their tenants now
    left: int = 0  # nobody's still

    def add(self, outcome: Outcome) -> None:
        """Add what became of a tenant's."""
        self.stored += len(outcome.stored)
        self.duplicates += len(outcome.duplicates)
        for item in outcome.quarantined:
            self.refused[item.verdict.reason] = self.refused.get(item.verdict.reason, 0) + 1


class _Gone(Exception):
    """Another has moved some of the messages; these are there."""

    def __init__(self, present: set[int]) -> None:
        super().__init__(f"{len(present)} are left")
        self.present = present


def replay(*, wait_seconds: float = 30.0, report: Callable[[Moved], None] | None = None) -> Moved:
    """Judge the messages of no tenant again, oldest first. `report` is called after every batch.

    What belongs to a tenant whose tables are locked for longer than `wait_seconds`, or whose key cannot be had,
    stays. Raises what a lost database raises; what is done then stays done.
    """
    moved, ingest = Moved(), build_ingest()
    try:
        position = 0
        while batch := _next(position):
            position = batch[-1].pk
            _do(ingest, batch, moved, wait_seconds)
            moved.seen += len(batch)
            ingest.tick()
            if report is not None:
                report(moved)
        ingest.tick(last=True)
    finally:
        ingest.close()
    return moved


def replay_all() -> str:
    """The workers' task; what it says afterwards."""
    moved = replay()
    return f"{moved.stored} of {moved.seen} stored, {sum(moved.refused.values())} refused, {moved.left} are nobody's"


def _next(position: int) -> list[Kept]:
    with schema_context("public"):
        rows = UnroutedMessage.objects.filter(pk__gt=position).order_by("pk")
        return kept_of(rows.values_list("pk", "reason", "topic", "payload", "first_received_at")[:_BATCH])


def _do(ingest: Ingest, batch: Sequence[Kept], moved: Moved, wait_seconds: float) -> None:
    judged = ingest.judge_again([Incoming(row.topic, row.payload, row.received_at) for row in batch])
    groups: dict[str, list[tuple[Kept, Judged]]] = {}
    for row, item in zip(batch, judged, strict=True):
        schema = None if isinstance(item, Busy) else ingest.schema_of(item)
        if schema is None or isinstance(item, Busy) or _is_parked(item):
            moved.left += 1
        else:
            groups.setdefault(schema, []).append((row, item))
    for schema, rows in groups.items():
        _move(ingest, schema, rows, moved, time.monotonic() + wait_seconds)


def _is_parked(item: Judged) -> bool:
    return getattr(item.verdict, "reason", "") == "key_unavailable"


def _move(ingest: Ingest, schema: str, rows: list[tuple[Kept, Judged]], moved: Moved, deadline: float) -> None:
    while rows:
        keys = [row.pk for row, _ in rows]

        def leave(connection: psycopg.Connection, keys: list[int] = keys) -> None:
            present = {pk for (pk,) in run(connection, _LOCK, [keys])}
            if len(present) < len(keys):
                raise _Gone(present)
            run(connection, _DELETE, [keys])

        try:
            outcome = ingest.storage.store(schema, [item for _, item in rows], also=leave)
        except _Gone as error:
            rows = [(row, item) for row, item in rows if row.pk in error.present]
        except psycopg.Error as error:
            if not is_busy(error):
                raise
            if time.monotonic() > deadline:
                logger.warning("%s is locked: %d messages stay with no tenant", schema, len(rows))
                moved.left += len(rows)
                return
            time.sleep(_PAUSE_SECONDS)
        else:
            ingest.note_readings(schema, outcome)
            moved.add(outcome)
            return
