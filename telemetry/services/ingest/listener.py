"""The loop of ingest: one thread that reads, batches, processes, and only then acknowledges."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import django.db
from django.conf import settings

from devices.services.presence import activity
from telemetry.services.mqtt.session import BrokerSession
from telemetry.services.pipeline.results import Incoming
from tenants.infrastructure import metrics, tenant_failures
from tenants.infrastructure.retry import DATABASE_LOST, Backoff, first_line

from . import broker_events, deferred_messages
from .batch_pipeline import BatchPipeline
from .batches import BatchResult
from .queue_probe import PROBE_SECONDS, QueueProbe
from .tenant_queues import MAX_BATCH_COST, TenantQueues, cost_of

logger = logging.getLogger(__name__)

SHARE = "ingest"
TOPICS = ("telemetry/#", "device/birth/+", "device/lwt/#")
_DEFERRED_SECONDS = 5.0
_RECORD_SECONDS = 1.0
# A tenant is shown as blocked for so long after it was last recorded.
_BLOCKED_SECONDS = 5.0
# Overflow of other listeners, which may have stopped, is looked for this often.
_OVERFLOW_SECONDS = 5.0
_COUNTERS = (
    "ingest_batches_total",
    "ingest_messages_total",
    "ingest_spilled_total",
    "ingest_restored_total",
    "ingest_unrouted_limited_total",
)
# The maximum size of a batch of one tenant: the messages behind it are prepared while it is stored. A batch of many
# tenants may be larger, this many messages for each, because each tenant's part costs a statement or two.
_MIN_BATCH_SIZE = 250
_MESSAGES_PER_TENANT = 10
# Reading stops while more than this cost waits: messages may be large, and the window only bounds their number.
_MAX_WAITING_COST = 32_000_000


class Listener:
    """One MQTT session and the pipeline behind it. The command loops over `run_once`."""

    def __init__(
        self,
        pipeline: BatchPipeline,
        *,
        client_id: str = "",
        share: str = "",
        retiring: bool = False,
        manual_ack: bool = True,
        persistent: bool = True,
        by_connection: bool = True,
    ) -> None:
        """`share` is the group of a shared subscription. The last three are those of `BrokerSession`.

        A `retiring` listener subscribes to nothing: it receives what the broker holds for its session, and `drain` ends
        that session.
        """
        self._pipeline = pipeline
        plain = [*TOPICS, broker_events.TOPIC] if settings.MQTT_BROKER_EVENTS else list(TOPICS)
        shared = [f"$share/{share or SHARE}/{topic}" for topic in plain]
        # A session remembers its subscriptions from times with more listeners, or fewer.
        wanted, former = (shared, plain) if share else (plain, shared)
        self._name = client_id or settings.MQTT_CLIENT_ID
        self._probe = QueueProbe(self._name)
        # Each session has a queue of its own, so its probes are not shared.
        wanted = [*wanted, self._probe.topic]
        self._retiring = retiring
        # At least two batches, so that the broker sends the next one while one is stored.
        self._window = max(1000, 2 * settings.INGEST_BATCH_MESSAGES)
        # In the order in which they were read. They are sorted into queues when they are more than one batch.
        self._received: list[Incoming] = []
        self._received_cost = 0
        self._queues = TenantQueues()
        # On their way into PostgreSQL.
        self._in_flight: list[Incoming] = []
        self._next_batch_size = min(_MIN_BATCH_SIZE, settings.INGEST_BATCH_MESSAGES)
        self._database = Backoff()
        self._replay_deferred_at = 0.0
        self._has_found_deferred = False
        self._record_at = self._probe_at = 0.0
        self._find_overflow_at = 0.0
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self.processed = 0
        # The age of the oldest message when its batch was stored, the maximum since it was last recorded.
        self._lag = 0.0
        self._session = BrokerSession(
            self._name,
            [] if retiring else wanted,
            former_topics=wanted + former if retiring else former,
            window=self._window,
            on_messages=self._receive,
            on_lost=self._on_lost,
            manual_ack=manual_ack,
            persistent=persistent,
            by_connection=by_connection,
        )

    @property
    def waiting(self) -> int:
        """The number of messages that were read and are not stored yet."""
        pipeline = self._pipeline
        return self._unsent + len(self._in_flight) + pipeline.blocked_messages + pipeline.admission.counted

    def run_once(self, timeout: float = 0.01) -> int:
        """Wait for the broker up to `timeout` seconds, read, and process a batch when one is due.

        Returns the number of processed messages. A lost broker or database is tried again later, with growing pauses;
        any other error is raised. Reading stops while more than a window of messages waits.
        """
        is_answered = self._exchange(timeout)
        self._do_chores()
        if self._due_in() <= 0:
            return self._process_next()
        return self._process() if is_answered else 0

    def _exchange(self, timeout: float) -> bool:
        """Wait for the broker and PostgreSQL, up to `timeout` seconds, and read; return whether PostgreSQL answered.

        While a batch waits for more messages they stay in the socket, and are read together at its end: waking up for
        each of them would cost as much as validating it.
        """
        answer_socket = self._pipeline.writer.answer_socket
        if self._pipeline.is_storing and answer_socket is None:
            return True  # there will be no answer: the batch could not be sent
        is_reading = self.waiting < self._window and self._received_cost + self._queues.cost < _MAX_WAITING_COST
        due = self._due_in()
        if not is_reading or not self._unsent or due <= 0:
            return self._session.exchange(min(timeout, due), reading=is_reading, also=answer_socket)
        if self._session.exchange(min(timeout, due), reading=False, also=answer_socket):
            return True
        return self._session.exchange(0.0, reading=True, also=answer_socket)

    def drain(self, seconds: float = 5.0) -> None:
        """Stop reading, process the messages that were read, and disconnect; the broker sends the rest again."""
        deadline = time.monotonic() + seconds
        self._pipeline.admission.store_soon()
        while self.waiting and time.monotonic() < deadline:
            has_unsent = bool(self._unsent)
            if not (self._process_next() or self._in_flight) or not has_unsent:
                time.sleep(0.05)
                self._guarded(self._retry_blocked)
        self._pipeline.admission.store_soon()
        for _ in range(2):  # the second one finishes what the first one sent
            self._process()
        self._guarded(lambda: self._pipeline.tick(last=True))
        self._pipeline.close()
        self._session.close(max(0.0, deadline - time.monotonic()), for_good=self._retiring and not self.waiting)

    def _on_lost(self) -> None:
        """Drop the messages that are not stored: their ids end with the connection, and the broker sends them again."""
        self._received.clear()
        self._received_cost = 0
        self._queues.clear()
        self._in_flight = []
        self._pipeline.drop_blocked()

    def _receive(self, messages: Sequence[Incoming]) -> None:
        self._received += messages
        self._received_cost += cost_of(messages)

    @property
    def _unsent(self) -> int:
        return len(self._received) + self._queues.count

    def _due_in(self) -> float:
        """Return the seconds until the next batch of the queue is due."""
        unsent = self._unsent
        if not unsent:
            return 1.0
        if (pause := self._database.remaining) > 0:
            return pause
        # Messages that were left over from a batch have waited for it.
        if self._queues.count or unsent >= self._next_batch_size:
            return 0.0
        age = (datetime.now(UTC) - self._received[0].received_at).total_seconds()
        # A negative age: the clock was set back by an unknown time.
        return max(0.0, settings.INGEST_BATCH_SECONDS - age) if age >= 0 else 0.0

    def _process_next(self) -> int:
        """Process the next batch; return as `_process` does."""
        try:
            batch = self._next_batch()
        except DATABASE_LOST as error:
            self._on_database_lost(error)
            return 0
        return self._process(batch)

    def _next_batch(self) -> list[Incoming]:
        """Remove and return the next batch; messages of braked publishers are counted instead.

        All messages where they fit into one batch: then their order is the same for all tenants. Raises the error of a
        lost database.
        """
        size = self._next_batch_size
        is_small = len(self._received) <= size and self._received_cost <= MAX_BATCH_COST
        if is_small and not self._queues.count and not self._pipeline.refusals.is_braking:
            return self._take_received()
        self._return_newly_braked()
        self._pipeline.admission.sort(self._received, self._queues)
        self._take_received()
        return self._queues.take(size)

    def _return_newly_braked(self) -> None:
        """Sort queued messages again whose publisher was braked meanwhile: they would be validated otherwise."""
        for publisher in self._pipeline.refusals.take_newly_braked():
            messages = self._queues.remove(publisher.schema, publisher.number)
            self._received[:0] = messages
            self._received_cost += cost_of(messages)

    def _take_received(self) -> list[Incoming]:
        messages, self._received, self._received_cost = self._received, [], 0
        return messages

    def _process(self, batch: Sequence[Incoming] = ()) -> int:
        """Send a batch, and acknowledge the one in flight; return the number of messages of the latter.

        0 also when the database is unavailable: then all of them wait as before.
        """
        try:
            result = self._pipeline.advance(batch, counting=self._pipeline.admission.is_store_due)
        except DATABASE_LOST as error:
            self._on_database_lost(error, batch)
            return 0
        stored, self._in_flight = self._in_flight, list(batch)
        if not stored and not result.counts.messages:
            return 0
        self._database.reset()
        self._acknowledge(result)
        self._note_counted(result)
        return self._note_stored(stored, result) + result.counts.messages

    def _note_counted(self, result: BatchResult) -> None:
        self.processed += result.counts.messages
        self._counters["ingest_messages_total"] += result.counts.messages
        self._counters["ingest_unrouted_limited_total"] += result.unrouted_limited

    def _note_stored(self, stored: Sequence[Incoming], result: BatchResult) -> int:
        """Note a finished batch in the metrics, and choose the size of the next; return the number of its messages."""
        if not stored:
            return 0
        wanted = max(_MIN_BATCH_SIZE, _MESSAGES_PER_TENANT * result.tenants)
        self._next_batch_size = min(wanted, settings.INGEST_BATCH_MESSAGES)
        for payload in result.probes:
            self._probe.receive(payload, time.monotonic())
        of_devices = len(stored) - len(result.probes)
        self.processed += of_devices
        self._counters["ingest_batches_total"] += 1
        self._counters["ingest_messages_total"] += of_devices
        oldest = min(message.received_at for message in stored)
        self._lag = max(self._lag, (datetime.now(UTC) - oldest).total_seconds())
        return len(stored)

    def _acknowledge(self, result: BatchResult) -> None:
        self._session.acknowledge(result.to_acknowledge)
        self._session.acknowledge_ids(result.counts.mids, result.counts.epoch)

    # --- chores -----------------------------------------------------------------------------------------------

    def _do_chores(self) -> None:
        now = time.monotonic()
        if now >= self._probe_at:
            self._probe_at = now + PROBE_SECONDS
            self._publish_probe(now)
        if self._database.is_pausing:
            return
        if self._pipeline.admission.is_store_due and self._due_in() > 0:
            self._process()  # else they are stored with the batch that is due
        self._guarded(self._retry_blocked)
        self._guarded(self._pipeline.tick)
        if now >= self._record_at and self._session.is_connected:
            self._record_at = now + _RECORD_SECONDS
            self._record()
        if now >= self._find_overflow_at and self._is_idle():
            self._find_overflow_at = now + _OVERFLOW_SECONDS
            self._guarded(self._pipeline.find_overflow)
        if now >= self._replay_deferred_at and not self._pipeline.keyring.is_vault_unavailable:
            self._replay_deferred_at = now + _DEFERRED_SECONDS
            if self._is_idle():
                self._guarded(self._replay_deferred)

    def _publish_probe(self, now: float) -> None:
        """Publish a message of its own; also while the database is lost, because it waits as long as a device's."""
        if not self._retiring and self._session.is_connected:
            self._session.publish(self._probe.topic, self._probe.next_payload(now))

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do the work, and treat a lost database as `_process` does."""
        try:
            work()
        except DATABASE_LOST as error:
            self._on_database_lost(error)

    def _retry_blocked(self) -> None:
        if self._pipeline.is_retry_due and self._is_idle():
            result = self._pipeline.retry_blocked()
            self._counters["ingest_spilled_total"] += result.spilled
            self._counters["ingest_restored_total"] += result.restored
            self._acknowledge(result)

    def _is_idle(self) -> bool:
        """Finish the batch in flight, so that something else can be stored; return False where the database is lost."""
        self._process()
        return not self._database.is_pausing

    def _record(self) -> None:
        """Record every second that devices are received: their silence is not evidence otherwise."""
        activity.record_listener_heartbeat()
        activity.suspend_timeouts(self._pipeline.blocked_schemas)
        tenant_failures.record_failures("ingest", self._pipeline.blocked_tenants, _BLOCKED_SECONDS)
        tenant_failures.record_failures("overflow", self._pipeline.full_overflows, _BLOCKED_SECONDS)
        counters, self._counters = self._counters, dict.fromkeys(self._counters, 0)
        gauges = {
            "ingest_waiting": self._unsent + len(self._in_flight),
            "ingest_locked": self._pipeline.blocked_messages,
            "ingest_lag_seconds": self._lag,
            "ingest_broker_lag_seconds": self._probe.take_lag(time.monotonic()),
        }
        self._lag = 0.0
        metrics.record(gauges, counters, process=self._name)

    def _replay_deferred(self) -> None:
        """Validate the messages that wait for their key again."""
        if not self._has_found_deferred:
            self._pipeline.deferred_schemas |= deferred_messages.find_deferred()
            self._has_found_deferred = True
        deferred_messages.replay_deferred(self._pipeline)

    def _on_database_lost(self, error: Exception, following: Sequence[Incoming] = ()) -> None:
        """Keep the batch in flight unacknowledged, and try it and the `following` one again later, in their order."""
        returned = [*self._in_flight, *following, *self._queues.remove_all()]
        self._received[:0] = returned
        self._received_cost += cost_of(returned)
        self._in_flight = []
        logger.warning("PostgreSQL is unavailable (%s); %d messages wait", first_line(error), self.waiting)
        self._pipeline.abandon()
        django.db.connection.close()
        self._database.fail()
