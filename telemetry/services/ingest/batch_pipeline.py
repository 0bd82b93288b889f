"""Batches through all steps, from form to presence. Messages that it reports as safe may be acknowledged.

While PostgreSQL stores one batch, the next is prepared.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import psycopg
from django.conf import settings

from devices.services.presence.activity import EventKind, PresenceEvent, PresenceRecorder
from devices.services.vault.secret_store import SecretStore
from telemetry.services.latest.values import LatestRecorder
from telemetry.services.limits.limiter import Limiter
from telemetry.services.limits.refusals import RefusalLimiter
from telemetry.services.lookups.keyring import Keyring
from telemetry.services.lookups.routing import Router
from telemetry.services.pipeline.results import (
    AcceptedItem,
    Incoming,
    LimitedItem,
    RefusedItem,
    TenantResult,
    TopicKind,
)
from telemetry.services.storage import overflow
from telemetry.services.storage.statements import EPOCH_MICROS
from telemetry.services.storage.tenant_writer import TenantWriter
from tenants.infrastructure.database import conninfo
from tenants.infrastructure.retry import first_line
from tenants.infrastructure.sql_errors import ErrorKind, is_of_tenant, kind_of
from tenants.services.quotas import WARNING_SHARE

from . import queue_probe
from .admission import Admission
from .batch_preparation import BatchPreparer
from .batch_writer import BatchWriter, messages_of
from .batches import BatchResult, PreparedBatch
from .blocked_tenants import BlockedTenantBuffer
from .repeated_messages import RepeatedMessages
from .tenant_queues import TenantQueues

logger = logging.getLogger(__name__)

# How long messages of a blocked tenant wait for its tables when they are tried again.
_BLOCKED_PATIENCE_MS = 5
# Limits are leased this often.
_FLUSH_SECONDS = 0.5
# Newest values, and the activity of devices known to be online, are sent to Redis together this often: the cost grows
# with the active devices, not with their messages, and the listener waits for it.
_PUBLISH_SECONDS = 1.0
_TELEMETRY = TopicKind.TELEMETRY  # Python 3.11 looks up a member of an enumeration in several steps
_EVENT_KINDS: dict[TopicKind, EventKind] = {TopicKind.BIRTH: "birth", TopicKind.WILL: "will"}


class BatchPipeline:
    """The steps with what they need: routing's cache, the keys, the database, presence."""

    def __init__(
        self,
        router: Router,
        keyring: Keyring,
        limiter: Limiter,
        writer: TenantWriter,
        presence: PresenceRecorder,
        latest: LatestRecorder,
        *,
        not_charged: frozenset[str] = frozenset(),
        charge_repeats: bool = True,
    ) -> None:
        """`not_charged`: reasons of refusals that do not brake their device, as in `BatchPreparer`.

        `charge_repeats`: whether messages that came before are charged to their device and its tenant.
        """
        self.router = router
        self.keyring = keyring
        self.writer = writer
        # The schemas of tenants with messages that this process deferred because a key was unavailable.
        self.deferred_schemas: set[str] = set()
        self.refusals = RefusalLimiter()
        self.preparer = BatchPreparer(
            router,
            keyring,
            limiter,
            self.refusals,
            lambda schema: self.deferred_schemas.add(schema),
            not_charged=not_charged,
            repeats=None if charge_repeats else RepeatedMessages(writer),
        )
        self.admission = Admission(router, self.refusals, self.preparer.topics)
        self._blocked = BlockedTenantBuffer()
        # The use of each tenant's overflow that is nearly full, in words, by schema.
        self.full_overflows: dict[str, str] = {}
        on_fault = self._blocked.add_fault
        self._batch_writer = BatchWriter(writer, self.preparer, router, latest, self._blocked, on_fault)
        # For messages from the overflow, and from HTTP: those of a blocked tenant stay there, or at their sender.
        self._still_blocked = BlockedTenantBuffer()
        self._direct_writer = BatchWriter(writer, self.preparer, router, latest, self._still_blocked, on_fault)
        self._presence = presence
        self._latest = latest
        self._flush_at = 0.0
        self._publish_at = 0.0
        self._in_flight: PreparedBatch | None = None

    @property
    def blocked_messages(self) -> int:
        """The number of messages that wait here for their tenant's tables."""
        return self._blocked.count

    @property
    def blocked_schemas(self) -> set[str]:
        """The schemas of tenants whose messages wait for their tables, here or in the overflow."""
        return self._blocked.schemas

    @property
    def blocked_tenants(self) -> dict[str, str]:
        """The cause for each blocked tenant, by schema."""
        return self._blocked.details()

    @property
    def is_storing(self) -> bool:
        """Whether a batch is in flight."""
        return self._in_flight is not None

    def process(self, batch: Sequence[Incoming]) -> BatchResult:
        """Prepare and store a batch, and return its result without preparing another meanwhile. See `advance`."""
        self.advance(batch)
        return self.advance(())

    def advance(self, batch: Sequence[Incoming], *, counting: bool = False) -> BatchResult:
        """Prepare and send a batch, and return the result of the batch in flight, which the call before sent.

        `counting`: the counts of braked devices' messages are stored in the same transaction. Without a batch and
        counts, the one in flight is finished. Raises the error of a lost database; nothing of either batch may be
        acknowledged then: `abandon`, and try both again.
        """
        following = self._prepare(batch, counting=counting) if batch or counting else None
        finished, self._in_flight = self._in_flight, None
        try:
            results = self._batch_writer.receive(finished) if finished else []
        except BaseException:
            for unstored in filter(None, (finished, following)):
                self.admission.put_back(unstored.counts)
            if following:
                self._batch_writer.release_limits(following)
            raise
        if following:
            self._batch_writer.send(following)
            self._in_flight = following
        total = BatchResult()
        if finished:
            self._record(finished, results, total, self._blocked)
        return total

    def abandon(self) -> None:
        """Abandon the batch in flight, and the connection: it may be stored nevertheless, and is tried again."""
        batch, self._in_flight = self._in_flight, None
        if batch:
            self._latest.mark_incomplete()
            self._batch_writer.release_limits(batch)
            self.admission.put_back(batch.counts)
        self.writer.close()

    def prepare_direct(self, messages: Sequence[Incoming]) -> PreparedBatch:
        """Prepare messages for `store_prepared`; those of braked publishers are only counted. Raises as `advance`."""
        queues = TenantQueues()
        self.admission.sort(messages, queues)
        batch = self.preparer.prepare(queues.remove_all())
        batch.counts = self.admission.take_counts()
        self._add_counts(batch)
        return batch

    def store_prepared(self, batch: PreparedBatch, patience_ms: int) -> tuple[list[TenantResult], BatchResult]:
        """Store a batch that its sender keeps until it is stored: messages of blocked tenants do not wait here, and are
        not in `to_acknowledge`. Raises as `advance` does. No batch may be in flight.
        """
        try:
            results = self._direct_writer.store(batch, patience_ms)
        except BaseException:
            self.admission.put_back(batch.counts)
            raise
        total = BatchResult()
        self._record(batch, results, total, self._still_blocked)
        self._still_blocked.clear()
        return results, total

    def discard(self, batch: PreparedBatch) -> None:
        """Give up a prepared batch of which nothing is stored; its sender sends it again."""
        self._direct_writer.release_limits(batch)
        self.admission.put_back(batch.counts)

    @property
    def is_retry_due(self) -> bool:
        """Whether `retry_blocked` is due."""
        return bool(self._blocked.schemas) and self._blocked.is_due

    def retry_blocked(self) -> BatchResult:
        """Try the messages of blocked tenants again, and spill what exceeds the capacity. Raises as `advance` does.

        No batch may be in flight.
        """
        total = BatchResult()
        for schema in self._blocked.due_schemas():
            if self._blocked.has_overflow(schema) and not self._restore(schema, total):
                continue
            with self._blocked.attempt(schema) as messages:
                batch = self.preparer.prepare(messages)
                self._record(batch, self._batch_writer.store(batch, _BLOCKED_PATIENCE_MS), total, self._blocked)
        for schema in self._blocked.over_capacity():
            with self._blocked.spilling(schema) as messages:
                spilled = overflow.spill(self.writer.connect(), schema, messages)
            logger.warning("%s is blocked: %d of its messages are in the overflow", schema, spilled)
            if spilled < len(messages):
                logger.error(
                    "The overflow of %s is full: %d messages are only counted", schema, len(messages) - spilled
                )
            total.spilled += spilled
            total.limited += len(messages) - spilled
            total.to_acknowledge += messages
        return total

    def find_overflow(self) -> None:
        """Look for overflow, of any listener. Raises as `advance` does. No batch may be in flight."""
        for schema in overflow.schemas(self.writer.connect()):
            self._blocked.set_overflow(schema, True)
        shares = overflow.used_shares(self.writer.connect())
        self.full_overflows = {
            schema: f"{100 * share:.0f} % of its overflow are used; messages beyond it are only counted."
            for schema, share in shares.items()
            if share >= WARNING_SHARE
        }

    def drop_blocked(self) -> None:
        """Drop what waits, messages and counts: their connection is lost, and the broker sends the messages again."""
        self._blocked.clear()
        self.admission.drop()

    def tick(self, *, last: bool = False) -> None:
        """Do the chores that are due between batches, or, the `last` time, all of them. Raises as `advance` does."""
        self._presence.flush(now=last)
        now = time.monotonic()
        if last or now >= self._flush_at:
            self._flush_at = now + _FLUSH_SECONDS
            self.preparer.flush()
        if last or now >= self._publish_at:
            self._publish_at = now + _PUBLISH_SECONDS
            self._latest.flush()

    def note_readings(self, result: TenantResult) -> None:
        """Note the newest values of a tenant's stored messages."""
        if result.readings:
            self._latest.note_all(result.schema, result.readings, EPOCH_MICROS)

    def close(self) -> None:
        """Close all connections, after the last batch."""
        self._latest.close()
        self.keyring.close()
        self.writer.close()

    def _prepare(self, messages: Sequence[Incoming], *, counting: bool) -> PreparedBatch:
        """Do everything for a batch that can be done while another is in flight."""
        batch = self.preparer.prepare(messages, self._in_flight.upgraded_devices if self._in_flight else ())
        if counting:
            batch.counts = self.admission.take_counts()
            self._add_counts(batch)
        batch.packed = self.writer.pack(batch.groups)
        return batch

    def _add_counts(self, batch: PreparedBatch) -> None:
        """Add the counts of braked messages to the other messages of their tenants, except of blocked ones."""
        blocked = self._blocked.schemas
        for item in batch.counts.items:
            if item.spec.tenant.schema in blocked:
                batch.waiting_counts.append(item)
            else:
                batch.groups.setdefault(item.spec.tenant.schema, []).append(item)

    def _restore(self, schema: str, total: BatchResult) -> bool:
        """Store some of the tenant's overflow, and return whether that was the last of it.

        A message leaves the overflow after it is stored and sent to Redis: a listener that dies between the two has it
        stored once more, as a duplicate.
        """
        connection = self.writer.connect()
        with overflow.restore_lock(connection, schema) as is_mine:
            if not is_mine:  # another listener restores it
                return False
            size = self._blocked.next_batch_size(schema)
            messages = overflow.oldest(connection, schema, size)
            if messages:
                batch = self.preparer.prepare(messages, replayed=True)
                _, restored = self.store_prepared(batch, _BLOCKED_PATIENCE_MS)
                overflow.delete(self.writer.connect(), [message.mid for message in restored.to_acknowledge])
                total.restored += len(restored.to_acknowledge)
                if len(restored.to_acknowledge) < len(messages):  # still blocked
                    return False
                self._blocked.mark_unlocked(schema)
        if len(messages) == size or not self._restore_counts(schema):
            return False
        self._blocked.set_overflow(schema, False)
        return True

    def _restore_counts(self, schema: str) -> bool:
        """Move the counts of the tenant's refused messages to its own; return whether that was possible."""
        try:
            restored = overflow.restore_counts(self.writer.connect(), schema)
        except psycopg.Error as error:
            if not is_of_tenant(error):
                raise
            if kind_of(error) is ErrorKind.SCHEMA:
                self._blocked.add_fault(schema, first_line(error))
            return False
        if restored:
            self._blocked.mark_unlocked(schema)
        return True

    def _record(
        self, batch: PreparedBatch, results: Sequence[TenantResult], total: BatchResult, blocked: BlockedTenantBuffer
    ) -> None:
        """Record newest values and presence of stored messages; then they may be acknowledged."""
        total.tenants = len(batch.groups)
        total.counts, total.unrouted_limited = batch.counts, batch.unrouted_limited
        total.unrouted += len(batch.unrouted)
        total.to_acknowledge += batch.internal
        total.probes += [one.payload for one in batch.internal if one.topic.startswith(queue_probe.TOPIC_PREFIX)]
        total.to_acknowledge += [item.incoming for item in batch.unrouted]
        events: list[PresenceEvent] = []
        for result in results:
            self.note_readings(result)
            events += presence_events_of(result)
        without_presence = self._presence.record(events) if events else {}
        for result in results:
            if result.schema in without_presence:
                # Stored, but their presence is not: it is recorded later, when they are stored again as duplicates.
                blocked.add(result.schema, messages_of(result.items))
                if fault := without_presence[result.schema]:
                    self._blocked.add_fault(result.schema, fault)
                continue
            for item in result.stored:
                if item.result.signature == 2 and item.spec.min_signature_version < 2:
                    self.router.upgrade_signature(item.spec.uuid)
            total.stored += len(result.stored)
            total.duplicates += len(result.duplicates)
            total.quarantined += len(result.quarantined)
            total.limited += sum(item.count for item in result.limited)
            total.to_acknowledge += messages_of(result.items)


def presence_events_of(result: TenantResult) -> list[PresenceEvent]:
    """Return births, wills, and the newest live telemetry of each device; late telemetry is not activity.

    A birth counts by its arrival: it was verified and came over a live connection, whatever its clock says. A message
    that exceeds a limit is activity like any other where it was verified.
    """
    newest: dict[int, AcceptedItem | LimitedItem] = {}
    gateways: dict[int, AcceptedItem] = {}
    events = [event for item in result.quarantined if (event := _refused_birth(item)) is not None]
    for items in (result.duplicates, result.stored, result.limited):
        for item in items:
            message = item.result
            if message is None:
                continue
            if message.topic.kind is not _TELEMETRY:
                events.append(_presence_event(item, _EVENT_KINDS[message.topic.kind]))
                continue
            if message.late:
                continue
            known = newest.get(item.spec.device_id)
            if known is None or known.incoming.received_at <= item.incoming.received_at:
                newest[item.spec.device_id] = item
            if item.__class__ is AcceptedItem and item.gateway is not None:
                gateways[item.gateway.device_id] = item
    events += [_presence_event(item, "telemetry") for item in newest.values()]
    # What a gateway sends for a child is activity of both.
    for item in gateways.values():
        if item.gateway is not None:
            events.append(_presence_event(replace(item, spec=item.gateway), "telemetry"))
    return events


def _presence_event(item: AcceptedItem | LimitedItem, kind: EventKind) -> PresenceEvent:
    message, spec = item.result, item.spec
    assert message is not None  # noqa: S101 (only verified messages are activity)
    return PresenceEvent(
        kind,
        spec.tenant.schema,
        spec.device_id,
        message.topic.uuid if message.topic.child is None else spec.uuid,
        item.incoming.received_at,
        spec.timeout_seconds,
        message.session,
        None if message.late else message.time,
    )


def _refused_birth(item: RefusedItem) -> PresenceEvent | None:
    """Return the event of a birth whose clock alone is wrong; None for any other refused message."""
    spec, contact = item.spec, item.result.contact
    if spec is None or contact is None or contact.session is None:
        return None
    schema, uuid, at = spec.tenant.schema, spec.uuid, item.incoming.received_at
    return PresenceEvent("birth", schema, spec.device_id, uuid, at, spec.timeout_seconds, contact.session)


def build_pipeline(
    *, role: str = "listener", not_charged: frozenset[str] = frozenset(), charge_repeats: bool = True
) -> BatchPipeline:
    """Return the pipeline on the configured servers. `role` is that in Vault; the others as in `BatchPipeline`."""
    store, writer = SecretStore(role), TenantWriter(conninfo())
    return BatchPipeline(
        Router(ttl=settings.INGEST_SPEC_TTL, on_renamed_series=writer.forget),
        Keyring(store, soft_ttl=settings.KEY_CACHE_SOFT_TTL, hard_ttl=settings.KEY_CACHE_HARD_TTL),
        Limiter(),
        writer,
        PresenceRecorder(grace_seconds=settings.PRESENCE_WILL_GRACE_SECONDS, flush_seconds=_PUBLISH_SECONDS),
        LatestRecorder(),
        not_charged=not_charged,
        charge_repeats=charge_repeats,
    )
