"""Messages of no tenant whose device is registered by now: they move to its tenant, through the pipeline.

Accepted messages are stored there, refused ones go into the tenant's quarantine, and those of no tenant stay.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from telemetry.services.ingest.batch_pipeline import BatchPipeline, build_pipeline
from telemetry.services.ingest.batches import LockedMessage
from telemetry.services.ingest.reprocessing import (
    RefusedRow,
    RefusedTable,
    Settlement,
    SettlingResult,
    is_deferred,
    pages,
    process_again,
    settle,
)
from telemetry.services.pipeline.results import MessageResult
from tenants.models import UnroutedMessage

logger = logging.getLogger(__name__)

# Between attempts while a tenant's tables are locked; a lost database raises.
_LOCK_PAUSE_SECONDS = 0.5
_UNROUTED = RefusedTable(
    lambda _: b"SELECT id FROM public.tenants_unroutedmessage WHERE id = ANY($1) ORDER BY id FOR UPDATE",
    lambda _: b"DELETE FROM public.tenants_unroutedmessage WHERE id = ANY($1)",
)


@dataclass(slots=True)
class UnroutedResult(SettlingResult):
    """What became of the messages of no tenant; `refused` are in the quarantine of their tenants now."""

    seen: int = 0
    left: int = 0  # still of no tenant


def replay(*, wait_seconds: float = 30.0, report: Callable[[UnroutedResult], None] | None = None) -> UnroutedResult:
    """Process the messages of no tenant again, oldest first; `report` is called after every page.

    A message stays if its tenant's tables are faulty, or locked for longer than `wait_seconds`, or its key is
    unavailable. Raises what a lost database raises; what is done then stays done.
    """
    total, pipeline = UnroutedResult(), build_pipeline()
    try:
        for page in pages("public", UnroutedMessage.objects.all()):
            _replay_page(pipeline, page, total, wait_seconds)
            total.seen += len(page)
            pipeline.tick()
            if report is not None:
                report(total)
        pipeline.tick(last=True)
    finally:
        pipeline.close()
    return total


def replay_all() -> str:
    """Replay the messages of no tenant as a worker's task; return the numbers in words."""
    total = replay()
    refused = sum(total.refused.values())
    return f"{total.stored} of {total.seen} stored, {refused} refused, {total.left} belong to no tenant"


def _replay_page(
    pipeline: BatchPipeline, page: Sequence[RefusedRow], total: UnroutedResult, wait_seconds: float
) -> None:
    by_schema: dict[str, list[tuple[RefusedRow, MessageResult]]] = {}
    for row, item in zip(page, process_again(pipeline, page), strict=True):
        schema = None if isinstance(item, LockedMessage) else pipeline.preparer.schema_of(item)
        if schema is None or isinstance(item, LockedMessage) or is_deferred(item):
            total.left += 1
        else:
            by_schema.setdefault(schema, []).append((row, item))
    for schema, moved in by_schema.items():
        _settle(pipeline, Settlement(schema, _UNROUTED, moved), total, time.monotonic() + wait_seconds)


def _settle(pipeline: BatchPipeline, settlement: Settlement, total: UnroutedResult, deadline: float) -> None:
    """Settle a tenant's messages; wait for its tables until the deadline."""
    while True:
        result = settle(pipeline, settlement)
        waiting, result.waiting = result.waiting, 0
        total.add(result)
        total.left += len(result.unstorable)
        if not waiting:
            return
        if result.waiting_for == "schema" or time.monotonic() > deadline:
            logger.warning("The tables of %s are locked or faulty: %d messages stay", settlement.schema, waiting)
            total.left += waiting
            return
        time.sleep(_LOCK_PAUSE_SECONDS)
