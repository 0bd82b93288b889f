"""The loop of ingest: one thread that reads, batches, processes, and only then acknowledges."""

import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice

import django.db
import psycopg
from django.conf import settings

from devices.services import presence
from tenants import metrics

from . import hints, parked
from .ingest import Ingest, Tally
from .session import Session
from .storage import Incoming

logger = logging.getLogger(__name__)

SHARE = "ingest"
TOPICS = ("telemetry/#", "device/birth/+", "device/lwt/#")
_RETRY_SECONDS = (0.2, 5.0)
_REPLAY_SECONDS = 5.0
_NOTE_SECONDS = 1.0
# What a lost database raises, from Django's connection and from our own.
LOST = (
    django.db.OperationalError,
    django.db.InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)


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
        plain = [*TOPICS, hints.TOPIC] if settings.MQTT_BROKER_EVENTS else list(TOPICS)
        shared = [f"$share/{share or SHARE}/{topic}" for topic in plain]
        # A session remembers how it subscribed when there were more listeners, or fewer.
        wanted, former = (shared, plain) if share else (plain, shared)
        self._retiring = retiring
        # At least two batches, so that the broker sends the next while this one is stored.
        self._window = max(1000, 2 * settings.INGEST_BATCH_MESSAGES)
        self._queue: deque[Incoming] = deque()
        self._retry_at = 0.0
        self._retry_after = _RETRY_SECONDS[0]
        self._replay_at = 0.0
        self._sought_parked = False
        self._note_at = 0.0
        self._figures = {"ingest_batches_total": 0, "ingest_messages_total": 0}
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
        self._session.exchange(min(timeout, self._due_in()), reading=self.waiting < self._window)
        self._do_chores()
        if not self._queue or self._due_in() > 0:
            return 0
        return self._process()

    def drain(self, seconds: float = 5.0) -> None:
        """Read no more, process what was read, and disconnect; what is left then comes again."""
        deadline = time.monotonic() + seconds
        while self.waiting and time.monotonic() < deadline:
            if not (self._queue and self._process()):
                time.sleep(0.05)
                self._guarded(self._retry_held)
        self._guarded(lambda: self._ingest.tick(last=True))
        self._ingest.close()
        self._session.close(max(0.0, deadline - time.monotonic()), for_good=self._retiring and not self.waiting)

    def _on_lost(self) -> None:
        """Message ids end with the connection. What was read and not stored will come again."""
        self._queue.clear()
        self._ingest.drop_held()

    def _due_in(self) -> float:
        """Seconds until the batch in the queue is to be processed."""
        if not self._queue:
            return 1.0
        if (pause := self._retry_at - time.monotonic()) > 0:
            return pause
        if len(self._queue) >= settings.INGEST_BATCH_MESSAGES:
            return 0.0
        age = (datetime.now(UTC) - self._queue[0].received_at).total_seconds()
        return max(0.0, settings.INGEST_BATCH_SECONDS - age)

    def _process(self) -> int:
        """Process a batch and acknowledge what of it is settled; 0 when the database is away."""
        batch = list(islice(self._queue, settings.INGEST_BATCH_MESSAGES))
        try:
            tally = self._ingest.process(batch)
        except LOST as error:
            self._hold(error)
            return 0
        self._retry_after = _RETRY_SECONDS[0]
        for _ in batch:
            self._queue.popleft()
        self._acknowledge(tally)
        self.processed += len(batch)
        self._figures["ingest_batches_total"] += 1
        self._figures["ingest_messages_total"] += len(batch)
        if batch:
            self._lag = max(self._lag, (datetime.now(UTC) - batch[0].received_at).total_seconds())
        return len(batch)

    def _acknowledge(self, tally: Tally) -> None:
        self._session.acknowledge(tally.settled)

    # --- what is due now and then -----------------------------------------------------------------------------

    def _do_chores(self) -> None:
        now = time.monotonic()
        if now < self._retry_at:
            return
        self._guarded(self._retry_held)
        self._guarded(self._ingest.tick)
        if now >= self._note_at and self._session.is_connected:
            self._note_at = now + _NOTE_SECONDS
            self._note()
        if now >= self._replay_at and not self._ingest.keyring.is_paused:
            self._replay_at = now + _REPLAY_SECONDS
            self._guarded(self._replay_parked)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except LOST as error:
            self._hold(error)

    def _retry_held(self) -> None:
        self._acknowledge(self._ingest.retry_held())

    def _note(self) -> None:
        """Say every second that devices are heard: while they are not, their silence is no evidence."""
        presence.note_listening()
        counted, self._figures = self._figures, dict.fromkeys(self._figures, 0)
        gauges = {"ingest_waiting": len(self._queue), "ingest_held": self._ingest.held, "ingest_lag_seconds": self._lag}
        self._lag = 0.0
        metrics.record(gauges, counted, process=self._name)

    def _replay_parked(self) -> None:
        """Judge again what waits for its key."""
        if not self._sought_parked:
            self._ingest.parked |= parked.find_parked()
            self._sought_parked = True
        parked.replay(self._ingest)

    def _hold(self, error: Exception) -> None:
        """The database is away: keep the batch, acknowledge nothing, try again later."""
        text = str(error).strip().splitlines()
        logger.warning("PostgreSQL is away (%s); %d messages wait", text[0] if text else error, self.waiting)
        self._ingest.storage.close()
        django.db.connection.close()
        self._retry_at = time.monotonic() + self._retry_after
        self._retry_after = min(2 * self._retry_after, _RETRY_SECONDS[1])
