"""The loop of ingest: one thread that reads, batches, processes, and only then acknowledges."""

import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice

import django.db
from django.conf import settings

from devices.services.presence import activity
from telemetry.services.mqtt.session import Session
from telemetry.services.pipeline.results import Incoming
from tenants.infrastructure import metrics
from tenants.infrastructure.retry import DATABASE_LOST, Backoff, first_line

from . import broker_events, deferred_messages
from .batch_pipeline import Ingest, Tally

logger = logging.getLogger(__name__)

SHARE = "ingest"
TOPICS = ("telemetry/#", "device/birth/+", "device/lwt/#")
_REPLAY_SECONDS = 5.0
_NOTE_SECONDS = 1.0
# Messages that another listener has put aside, perhaps one that is gone, are looked for.
_SEEK_SECONDS = 5.0
_FIGURES = (
    "ingest_batches_total",
    "ingest_messages_total",
    "ingest_put_aside_total",
    "ingest_taken_back_total",
)
# A batch of one tenant holds so many messages at most: what is behind them is judged while they are stored. One of many
# tenants holds more, so many of each, because each tenant's part costs a statement or two.
_FEW_MESSAGES = 250
_MESSAGES_OF_A_TENANT = 10


class Listener:
    """One MQTT session and the pipeline behind it. `run_once` is the step; the command loops over it."""

    def __init__(
        self,
        ingest: Ingest,
        *,
        client_id: str = "",
        share: str = "",
        retiring: bool = False,
        manual_ack: bool = True,
        persistent: bool = True,
        by_connection: bool = True,
    ) -> None:
        """`share` is the group of a shared subscription. The last three are those of `Session`.

        One that is `retiring` subscribes to nothing: it takes what the broker holds for it, and `drain` ends its
        session there.
        """
        self._ingest = ingest
        plain = [*TOPICS, broker_events.TOPIC] if settings.MQTT_BROKER_EVENTS else list(TOPICS)
        shared = [f"$share/{share or SHARE}/{topic}" for topic in plain]
        # A session remembers how it subscribed when there were more listeners, or fewer.
        wanted, former = (shared, plain) if share else (plain, shared)
        self._retiring = retiring
        # At least two batches, so that the broker sends the next while this one is stored.
        self._window = max(1000, 2 * settings.INGEST_BATCH_MESSAGES)
        self._queue: deque[Incoming] = deque()
        # So many at its head are on their way into PostgreSQL.
        self._sent = 0
        self._most = min(_FEW_MESSAGES, settings.INGEST_BATCH_MESSAGES)
        self._database = Backoff()
        self._replay_at = 0.0
        self._sought_parked = False
        self._note_at = 0.0
        self._seek_at = 0.0
        self._figures = dict.fromkeys(_FIGURES, 0)
        self.processed = 0
        # The oldest message's age when its batch was settled, the worst since it was last noted.
        self._lag = 0.0
        self._name = client_id or settings.MQTT_CLIENT_ID
        self._session = Session(
            self._name,
            [] if retiring else wanted,
            former_topics=wanted + former if retiring else former,
            window=self._window,
            on_messages=self._queue.extend,
            on_lost=self._on_lost,
            manual_ack=manual_ack,
            persistent=persistent,
            by_connection=by_connection,
        )

    @property
    def waiting(self) -> int:
        """Messages that were read and are not stored yet."""
        return len(self._queue) + self._ingest.held

    def run_once(self, timeout: float = 0.01) -> int:
        """Wait for the broker up to `timeout` seconds, read, and process a batch when one is due.

        Returns how many messages were processed. A lost broker or database is tried again later, with growing
        pauses; anything else that goes wrong is raised. Reading stops while more than a window of messages waits.
        """
        is_settled = self._exchange(timeout)
        self._do_chores()
        if self._due_in() <= 0:
            return self._process(self._next_batch())
        return self._process([]) if is_settled else 0

    def _exchange(self, timeout: float) -> bool:
        """Wait for the broker and for PostgreSQL, up to `timeout` seconds, and read; whether PostgreSQL has answered.

        While a batch waits for more messages they are left where they are, and read together at its end: to be woken
        for each of them would cost as much as to judge it.
        """
        answering = self._ingest.answering
        if self._ingest.is_storing and answering is None:
            return True  # there will be no answer: it could not be sent
        is_reading, due = self.waiting < self._window, self._due_in()
        if not is_reading or len(self._queue) == self._sent or due <= 0:
            return self._session.exchange(min(timeout, due), reading=is_reading, also=answering)
        if self._session.exchange(min(timeout, due), reading=False, also=answering):
            return True
        return self._session.exchange(0.0, reading=True, also=answering)

    def drain(self, seconds: float = 5.0) -> None:
        """Read no more, process what was read, and disconnect; what is left then comes again."""
        deadline = time.monotonic() + seconds
        while self.waiting and time.monotonic() < deadline:
            if not self._queue or not (self._process(self._next_batch()) or self._sent):
                time.sleep(0.05)
                self._guarded(self._retry_held)
        self._process([])
        self._guarded(lambda: self._ingest.tick(last=True))
        self._ingest.close()
        self._session.close(max(0.0, deadline - time.monotonic()), for_good=self._retiring and not self.waiting)

    def _on_lost(self) -> None:
        """Message ids end with the connection. What was read and not stored will come again."""
        self._queue.clear()
        self._sent = 0
        self._ingest.drop_held()

    def _due_in(self) -> float:
        """Seconds until the batch in the queue is to be processed."""
        unsent = len(self._queue) - self._sent
        if not unsent:
            return 1.0
        if (pause := self._database.remaining) > 0:
            return pause
        if unsent >= self._most:
            return 0.0
        age = (datetime.now(UTC) - self._queue[self._sent].received_at).total_seconds()
        # Less than nothing: the clock was set back, by who knows how much.
        return max(0.0, settings.INGEST_BATCH_SECONDS - age) if age >= 0 else 0.0

    def _next_batch(self) -> list[Incoming]:
        return list(islice(self._queue, self._sent, self._sent + self._most))

    def _process(self, batch: list[Incoming]) -> int:
        """Send a batch, and acknowledge what is settled of the one before; how many that were.

        0 also when the database is away: then all of it is still in the queue.
        """
        try:
            tally = self._ingest.advance(batch)
        except DATABASE_LOST as error:
            self._hold(error)
            return 0
        former, self._sent = self._sent, len(batch)
        if not former:
            return 0
        self._database.reset()
        wanted = max(_FEW_MESSAGES, _MESSAGES_OF_A_TENANT * tally.tenants)
        self._most = min(wanted, settings.INGEST_BATCH_MESSAGES)
        oldest = self._queue[0].received_at
        for _ in range(former):
            self._queue.popleft()
        self._acknowledge(tally)
        self.processed += former
        self._figures["ingest_batches_total"] += 1
        self._figures["ingest_messages_total"] += former
        self._lag = max(self._lag, (datetime.now(UTC) - oldest).total_seconds())
        return former

    def _acknowledge(self, tally: Tally) -> None:
        self._session.acknowledge(tally.settled)

    # --- what is due now and then -----------------------------------------------------------------------------

    def _do_chores(self) -> None:
        now = time.monotonic()
        if self._database.is_pausing:
            return
        self._guarded(self._retry_held)
        self._guarded(self._ingest.tick)
        if now >= self._note_at and self._session.is_connected:
            self._note_at = now + _NOTE_SECONDS
            self._note()
        if now >= self._seek_at and self._has_received():
            self._seek_at = now + _SEEK_SECONDS
            self._guarded(self._ingest.find_aside)
        if now >= self._replay_at and not self._ingest.keyring.is_paused:
            self._replay_at = now + _REPLAY_SECONDS
            if self._has_received():
                self._guarded(self._replay_parked)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except DATABASE_LOST as error:
            self._hold(error)

    def _retry_held(self) -> None:
        if self._ingest.is_retry_due and self._has_received():
            tally = self._ingest.retry_held()
            self._figures["ingest_put_aside_total"] += tally.put_aside
            self._figures["ingest_taken_back_total"] += tally.taken_back
            self._acknowledge(tally)

    def _has_received(self) -> bool:
        """Settle what is on its way, because something else is to be stored; False when the database is away."""
        self._process([])
        return not self._database.is_pausing

    def _note(self) -> None:
        """Say every second that devices are heard: while they are not, their silence is no evidence."""
        activity.record_listener_heartbeat()
        activity.suspend_timeouts(self._ingest.held_of)
        counted, self._figures = self._figures, dict.fromkeys(self._figures, 0)
        gauges = {"ingest_waiting": len(self._queue), "ingest_held": self._ingest.held, "ingest_lag_seconds": self._lag}
        self._lag = 0.0
        metrics.record(gauges, counted, process=self._name)

    def _replay_parked(self) -> None:
        """Judge again what waits for its key."""
        if not self._sought_parked:
            self._ingest.parked |= deferred_messages.find_parked()
            self._sought_parked = True
        deferred_messages.replay(self._ingest)

    def _hold(self, error: Exception) -> None:
        """The database is away: keep the batch, acknowledge nothing, try again later."""
        logger.warning("PostgreSQL is unavailable (%s); %d messages wait", first_line(error), self.waiting)
        self._sent = 0
        self._ingest.let_go()
        django.db.connection.close()
        self._database.fail()
