"""The import of an old server's recorded messages: validated by the current contract, stored as live messages are.

The old server verified the messages; they are not verified again, so the device's key, its activation and the tenant's
limits do not apply. They are late, so they do not change presence. A message that does not fit the contract goes into
quarantine as received now, and has the quarantine's usual retention. An import is a resumable job that one command does
without a lease: its position alone decides which of two processes has stored a batch.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings

from devices.domain.specs import DeviceSpec
from telemetry.models import LegacyImport
from tenants.infrastructure import resumable_jobs
from tenants.infrastructure.database import conninfo
from tenants.infrastructure.retry import is_lock_conflict

from .latest.values import LatestRecorder
from .lookups.routing import Router
from .pipeline import form, validation
from .pipeline.contract import ClockTolerance
from .pipeline.results import AcceptedItem, Incoming, MessageResult, Refusal, RefusedItem, TenantResult, Topic
from .storage.optimistic_writer import AlreadyStored
from .storage.statements import EPOCH_MICROS
from .storage.tenant_writer import TenantWriter

logger = logging.getLogger(__name__)

# An old record may be long: all of its months are partitions of their own, and a clock that says 1970 makes none.
_MONTHS = 240
_PATIENCE_MS = 5000
# Between attempts while the tenant's tables are locked; a lost database raises.
_LOCK_PAUSE_SECONDS = 0.5
_FLUSH_SECONDS = 0.5
# After messages that were there already, so many batches are expected to hold others.
_CONFLICT_BATCHES = 20

SpecLookup = Callable[[Sequence[UUID]], Mapping[UUID, DeviceSpec | None]]


@dataclass(slots=True)
class LegacyRow:
    """A recorded message. `device` is the UUID in the row beside its topic, if any."""

    line: int
    topic: str
    payload: bytes
    device_time: datetime | None
    received_at: datetime
    device: UUID | None = None


@dataclass(frozen=True, slots=True)
class ImportPosition:
    """The end of a batch in the file: its offset in bytes and lines, and the SHA-256 of those bytes."""

    position: int
    digest: str
    line: int


@dataclass(slots=True)
class ImportBatch:
    """Rows up to `end`, parsed from `read` lines of which `unreadable` are not rows."""

    rows: list[LegacyRow]
    read: int
    unreadable: int
    end: ImportPosition


@dataclass(slots=True)
class ImportBatchResult:
    """The results of a batch; `refused` with their rows."""

    stored: int = 0
    duplicates: int = 0
    refused: list[tuple[LegacyRow, Refusal]] = field(default_factory=list)


class _RollBack(Exception):
    """Rolls back the trial of a row that can be stored."""


def _roll_back(_connection: psycopg.Connection, _result: TenantResult) -> None:
    raise _RollBack


class LegacyRowValidator:
    """Validates rows of a tenant's recorded messages. Not shared between threads."""

    def __init__(self, schema: str, resolve: SpecLookup) -> None:
        self._schema = schema
        self._resolve = resolve
        self._max_payload = settings.INGEST_MAX_PAYLOAD
        self._clock = ClockTolerance(
            live=timedelta(seconds=settings.INGEST_LIVE_SECONDS),
            future=timedelta(seconds=settings.INGEST_FUTURE_SECONDS),
        )

    def validate(self, rows: Sequence[LegacyRow]) -> list[AcceptedItem | RefusedItem]:
        """Return the result of each row, in order."""
        topics = [_parsed_topic(row) for row in rows]
        specs = self._resolve([topic.uuid for topic in topics if isinstance(topic, Topic)])
        return [self._validate(row, topic, specs) for row, topic in zip(rows, topics, strict=True)]

    def _validate(
        self, row: LegacyRow, topic: Topic | Refusal, specs: Mapping[UUID, DeviceSpec | None]
    ) -> AcceptedItem | RefusedItem:
        if isinstance(topic, Refusal):
            return _refused_item(row, None, topic)
        spec = specs.get(topic.uuid)
        if spec is None or spec.tenant.schema != self._schema:  # the text does not disclose another tenant
            return _refused_item(row, None, Refusal("unknown_device", f"The tenant has no device {topic.uuid}."))
        try:
            if row.device is not None and row.device != topic.uuid:
                raise Refusal("malformed", f"The row is of the device {row.device}, its topic of {topic.uuid}.")
            form.check_size(row.payload, self._max_payload, spec.tenant.limits)
            accepted = validation.validate_legacy(
                topic, row.topic, row.payload, spec, row.device_time, row.received_at, self._clock
            )
        except Refusal as refusal:
            return _refused_item(row, spec, refusal)
        except Exception as error:  # one row that we cannot read must not stop all others
            logger.exception("Line %d cannot be validated", row.line)
            return _refused_item(
                row, spec, Refusal("malformed", f"It cannot be read: {type(error).__name__}: {error}.")
            )
        return AcceptedItem(Incoming(row.topic, row.payload, row.received_at), spec, accepted)


class LegacyImportWriter:
    """Stores a tenant's recorded messages in batches; `close` it at the end. Not shared between threads."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._writer = TenantWriter(conninfo(), kept_months=_MONTHS)
        self._router = Router(ttl=settings.INGEST_SPEC_TTL, on_renamed_series=self._writer.forget)
        self._validator = LegacyRowValidator(schema, self._specs)
        self._latest = LatestRecorder()
        self._flush_at = 0.0
        self._exact = 0

    def settle(self, job: LegacyImport, batch: ImportBatch) -> ImportBatchResult:
        """Validate and store a batch as the next step of the import, in one transaction.

        Waits while the tenant's tables are locked. Raises Superseded, and what a lost database raises; nothing is done
        then.
        """
        is_fresh = False
        while True:
            results = self._validator.validate(batch.rows)
            try:
                settled = self._store(job, batch, results)
            except (psycopg.DataError, psycopg.IntegrityError):
                # Perhaps the tenant's devices changed under the cache; else one of the rows cannot be stored.
                self._forget()
                batch = self._without_unstorable(batch, results) if is_fresh else batch
                is_fresh = True
                continue
            except psycopg.Error as error:
                if not is_lock_conflict(error):
                    raise
                time.sleep(_LOCK_PAUSE_SECONDS)
                continue
            self._tick()
            return settled

    def recover(self) -> None:
        """Reset all caches after a lost connection; newest values count as incomplete, as a commit may be unknown."""
        self._latest.mark_incomplete()
        self._writer.close()
        self._forget()

    def _forget(self) -> None:
        self._writer.forget(self._schema)
        self._router.forget()

    def _specs(self, uuids: Sequence[UUID]) -> dict[UUID, DeviceSpec | None]:
        """Return the devices' specifications; wait while the tenant's tables are locked."""
        wanted = list(set(uuids))
        routes = self._router.routes(wanted)
        while any(route.spec is None and route.locked_schema for route in routes):
            time.sleep(_LOCK_PAUSE_SECONDS)
            routes = self._router.routes(wanted)
        return {uuid: route.spec for uuid, route in zip(wanted, routes, strict=True)}

    def _without_unstorable(self, batch: ImportBatch, results: Sequence[AcceptedItem | RefusedItem]) -> ImportBatch:
        """Return the batch without the rows that PostgreSQL rejects, after a trial of each row."""
        kept = []
        for row, item in zip(batch.rows, results, strict=True):
            try:
                self._writer.store(self._schema, [item], _PATIENCE_MS, after=_roll_back)
            except _RollBack:
                kept.append(row)
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                logger.warning("Line %d cannot be stored and is left out: %s", row.line, error)
        return ImportBatch(kept, batch.read, batch.unreadable + len(batch.rows) - len(kept), batch.end)

    def close(self) -> None:
        """Write the rest to Redis, and close the connections."""
        self._latest.close()
        self._writer.close()

    def _store(
        self, job: LegacyImport, batch: ImportBatch, results: Sequence[AcceptedItem | RefusedItem]
    ) -> ImportBatchResult:
        refused = [
            (row, item.result) for row, item in zip(batch.rows, results, strict=True) if isinstance(item, RefusedItem)
        ]
        settled = ImportBatchResult(refused=refused)
        values: dict[str, Any] = {}

        def advance(connection: psycopg.Connection, outcome: TenantResult) -> None:
            settled.stored, settled.duplicates = len(outcome.stored), len(outcome.duplicates)
            values.update(resumable_jobs.advance_on(connection, self._schema, job, **_progress(job, batch, settled)))

        outcome = self._write(_with_origin(batch.rows, results), advance)
        resumable_jobs.assign(job, values)
        self._latest.note_all(self._schema, outcome.readings, EPOCH_MICROS)
        return settled

    def _write(
        self, items: Sequence[MessageResult], advance: Callable[[psycopg.Connection, TenantResult], None]
    ) -> TenantResult:
        """Store the items and move the import on. Raises Superseded."""
        if self._exact == 0:
            try:
                packed = self._writer.pack({self._schema: items})
                self._writer.send(packed, advance)
                return self._writer.receive(packed)[0]
            except AlreadyStored:  # or superseded, which the other way then finds
                self._exact = _CONFLICT_BATCHES
        self._exact -= 1
        return self._writer.store(self._schema, items, _PATIENCE_MS, after=advance)

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._flush_at:
            self._flush_at = now + _FLUSH_SECONDS
            self._latest.flush()


def _parsed_topic(row: LegacyRow) -> Topic | Refusal:
    try:
        return form.parse_topic(row.topic)
    except Refusal as refusal:
        return refusal


def _refused_item(row: LegacyRow, spec: DeviceSpec | None, refusal: Refusal) -> RefusedItem:
    return RefusedItem(Incoming(row.topic, row.payload, datetime.now(UTC)), spec, refusal)


def _with_origin(rows: Sequence[LegacyRow], results: Sequence[AcceptedItem | RefusedItem]) -> list[MessageResult]:
    """Return the items; the details of refused ones name their origin."""
    items: list[MessageResult] = []
    for row, item in zip(rows, results, strict=True):
        if isinstance(item, RefusedItem):
            origin = f"From an old record, line {row.line}, received {row.received_at.isoformat()}: "
            refusal = Refusal(item.result.reason, origin + item.result.detail)
            item = RefusedItem(item.incoming, item.spec, refusal)
        items.append(item)
    return items


def _progress(job: LegacyImport, batch: ImportBatch, settled: ImportBatchResult) -> dict[str, Any]:
    """Return the columns of the import after the batch."""
    refused = dict(job.refused)
    for _row, refusal in settled.refused:
        refused[refusal.reason] = refused.get(refusal.reason, 0) + 1
    return {
        "position": batch.end.position,
        "digest": batch.end.digest,
        "line": batch.end.line,
        "read": job.read + batch.read,
        "stored": job.stored + settled.stored,
        "duplicates": job.duplicates + settled.duplicates,
        "refused": refused,
        "unreadable": job.unreadable + batch.unreadable,
    }
