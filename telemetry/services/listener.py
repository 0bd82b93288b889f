"""The MQTT side of ingest: one loop that reads, batches, processes, and only then acknowledges.

The session at the broker is persistent, so whatever is not acknowledged comes again after a reconnect. An
acknowledgement belongs to the connection that its message came on: message ids of an older one mean others now.
"""

import logging
import select
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import django.db
import paho.mqtt.client as mqtt
import psycopg
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from devices.services import presence

from . import hints, parked
from .ingest import Ingest
from .storage import Incoming

logger = logging.getLogger(__name__)

TOPICS = ("telemetry/#", "device/birth/+", "device/lwt/#")
KEEPALIVE_SECONDS = 60
_SESSION_SECONDS = 7 * 24 * 3600
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
    """One MQTT session. `run_once` is the step; the command loops over it."""

    def __init__(
        self,
        ingest: Ingest,
        *,
        client_id: str = "",
        share: str = "",
        manual_ack: bool = True,
        persistent: bool = True,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`share` is the group of a shared subscription. `manual_ack` and `persistent` are off only in tests
        that show that messages are lost without them.
        """
        if not settings.MQTT_URL:
            raise ImproperlyConfigured("MQTT_URL is not set, for example mqtt://user:password@host:1883.")
        self._ingest = ingest
        self._url = urlsplit(settings.MQTT_URL)
        self._client_id = client_id or settings.MQTT_CLIENT_ID
        topics = [*TOPICS, hints.TOPIC] if settings.MQTT_BROKER_EVENTS else TOPICS
        self._topics = [f"$share/{share}/{topic}" if share else topic for topic in topics]
        self._manual_ack = manual_ack
        self._persistent = persistent
        self._on_progress = on_progress
        # At least two batches, so that the broker sends the next while this one is stored.
        self._window = max(1000, 2 * settings.INGEST_BATCH_MESSAGES)
        self._queue: deque[Incoming] = deque()
        self._epoch = 0
        self._retry_at = 0.0
        self._retry_after = _RETRY_SECONDS[0]
        self._reconnect_at = 0.0
        self._reconnect_after = _RETRY_SECONDS[0]
        self._replay_at = 0.0
        self._sought_parked = False
        self._note_at = 0.0
        self._client = self._make_client()

    @property
    def waiting(self) -> int:
        """Messages that were read and are not stored yet."""
        return len(self._queue)

    def run_once(self, timeout: float = 0.01) -> int:
        """Wait for the broker up to `timeout` seconds, read, and process a batch when one is due.

        Returns how many messages were processed. A lost broker or database is tried again later, with growing
        pauses; anything else that goes wrong is raised.
        """
        if self._client.socket() is None:
            self._connect()
        self._exchange(timeout)
        self._note_listening()
        self._replay_parked()
        if not self._is_due():
            return 0
        return self._process(settings.INGEST_BATCH_MESSAGES)

    def drain(self, seconds: float = 5.0) -> None:
        """Read no more, process what was read, and disconnect; what is left then comes again."""
        deadline = time.monotonic() + seconds
        while self._queue and time.monotonic() < deadline:
            if not self._process(settings.INGEST_BATCH_MESSAGES):
                time.sleep(0.05)
        while self._client.want_write() and time.monotonic() < deadline:
            self._client.loop_write()
        self._client.disconnect()
        self._client.loop_write()

    # --- the connection ---------------------------------------------------------------------------------------

    def _make_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=mqtt.MQTTv5,
            manual_ack=self._manual_ack,
        )
        client.username_pw_set(unquote(self._url.username or ""), unquote(self._url.password or ""))
        if self._url.scheme == "mqtts":
            client.tls_set()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _connect(self) -> None:
        if time.monotonic() < self._reconnect_at:
            return
        properties = Properties(PacketTypes.CONNECT)
        if self._persistent:
            properties.SessionExpiryInterval = _SESSION_SECONDS
        properties.ReceiveMaximum = self._window
        try:
            self._client.connect(
                self._url.hostname or "localhost",
                self._url.port or 1883,
                keepalive=KEEPALIVE_SECONDS,
                clean_start=not self._persistent,
                properties=properties,
            )
        except OSError as error:
            self._lost(f"cannot be reached: {error}")

    def _lost(self, why: str) -> None:
        logger.warning("The broker %s; trying again in %.1f s", why, self._reconnect_after)
        self._reconnect_at = time.monotonic() + self._reconnect_after
        self._reconnect_after = min(2 * self._reconnect_after, _RETRY_SECONDS[1])

    def _on_connect(self, client: mqtt.Client, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            logger.error("The broker refuses the connection: %s", reason)
            return
        self._epoch += 1
        self._reconnect_after = _RETRY_SECONDS[0]
        # Whatever the broker says it remembers: a shared subscription may be gone after its restart.
        # Retained messages are not asked for: a retained will would put its device OFFLINE at every reconnect.
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        client.subscribe([(topic, options) for topic in self._topics])
        logger.info("Connected to the broker (session present: %s)", flags.session_present)

    def _on_disconnect(self, _client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _props: Any) -> None:
        # Message ids end with the connection. What was read and not stored will come again; storing it
        # anyway would only make duplicates.
        self._queue.clear()
        self._lost(f"is gone: {reason}")

    def _on_message(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        self._queue.append(
            Incoming(
                # Not message.topic: it raises on bytes that are not UTF-8.
                topic=message._topic.decode("utf-8", "backslashreplace"),
                payload=bytes(message.payload),
                received_at=datetime.now(UTC),
                mid=message.mid,
                qos=message.qos,
                epoch=self._epoch,
            )
        )

    def _exchange(self, timeout: float) -> None:
        """One turn of the client's own loop. Reading stops while more than a window of messages waits."""
        sock = cast(Any, self._client.socket())
        if sock is None:
            time.sleep(timeout)
            return
        reading = [sock] if len(self._queue) < self._window else []
        writing = [sock] if self._client.want_write() else []
        readable, writable, _ = select.select(reading, writing, [], timeout)
        if readable:
            self._read_all(sock)
        if writable or self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()

    def _read_all(self, sock: Any) -> None:
        """Read packets while there are any, up to a batch."""
        for _ in range(settings.INGEST_BATCH_MESSAGES):
            if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS or self._client.socket() is None:
                return
            pending = getattr(sock, "pending", None)
            if not (pending and pending()) and not select.select([sock], [], [], 0)[0]:
                return

    # --- the work ---------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        if not self._queue or time.monotonic() < self._retry_at:
            return False
        if len(self._queue) >= settings.INGEST_BATCH_MESSAGES:
            return True
        age = (datetime.now(UTC) - self._queue[0].received_at).total_seconds()
        return age >= settings.INGEST_BATCH_SECONDS

    def _process(self, limit: int) -> int:
        """Process up to `limit` messages and acknowledge them; 0 when the database is away."""
        batch = [self._queue[i] for i in range(min(limit, len(self._queue)))]
        try:
            tally = self._ingest.process(batch)
        except LOST as error:
            self._hold(error)
            return 0
        self._retry_after = _RETRY_SECONDS[0]
        for _ in batch:
            self._queue.popleft()
        self._acknowledge(batch)
        self._on_progress()
        logger.debug("%s", tally)
        return len(batch)

    def _note_listening(self) -> None:
        """Say every second that devices are heard: while they are not, their silence is no evidence."""
        now = time.monotonic()
        if now >= max(self._note_at, self._retry_at) and self._client.is_connected():
            self._note_at = now + _NOTE_SECONDS
            presence.note_listening()

    def _replay_parked(self) -> None:
        """Every few seconds, judge again what waits for its key, when Vault can be asked."""
        now = time.monotonic()
        if now < max(self._replay_at, self._retry_at) or self._ingest.keyring.is_paused:
            return
        self._replay_at = now + _REPLAY_SECONDS
        try:
            if not self._sought_parked:
                self._ingest.parked |= parked.find_parked()
                self._sought_parked = True
            parked.replay(self._ingest)
        except LOST as error:
            self._hold(error)

    def _hold(self, error: Exception) -> None:
        """The database is away: keep the batch, acknowledge nothing, try again later."""
        text = str(error).strip().splitlines()
        logger.warning("PostgreSQL is away (%s); %d messages wait", text[0] if text else error, len(self._queue))
        self._ingest.storage.close()
        django.db.connection.close()
        self._retry_at = time.monotonic() + self._retry_after
        self._retry_after = min(2 * self._retry_after, _RETRY_SECONDS[1])

    def _acknowledge(self, batch: list[Incoming]) -> None:
        if not self._manual_ack:
            return
        for incoming in batch:
            if incoming.epoch == self._epoch and incoming.qos:
                self._client.ack(incoming.mid, incoming.qos)
