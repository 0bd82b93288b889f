"""Step 9, acknowledgement: the listener's session at the broker, which outlives its connections.

The session is persistent, so the broker sends unacknowledged messages again after a reconnect. An acknowledgement
belongs to the connection of its message: message ids of an older one are of other messages now.
"""

import logging
import select
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import paho.mqtt.client as mqtt
from django.conf import settings
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from devices.services.broker.connection import address_of, make_client_of
from telemetry.services.pipeline.results import Incoming
from tenants.infrastructure import metrics
from tenants.infrastructure.retry import Backoff

from .client import BufferedClient, Publish

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 60
_SESSION_SECONDS = 7 * 24 * 3600
# Reason codes of MQTT 5; paho gives the first also for what MQTT 3.1.1 brokers answer.
_UNSUPPORTED_VERSION = 132
_TAKEN_OVER = 142
_SHORT_SECONDS = 5.0
_MANY_SHORT = 5
# No old messages, and the publisher's retain flag on live ones.
_OPTIONS = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
_CLEAR_SECONDS = 1.0
_MOST_RETAINED = 1000


class BrokerSession:
    """One client at the broker. `on_messages` is called with the received messages, in order."""

    def __init__(
        self,
        client_id: str,
        topics: Sequence[str],
        *,
        former_topics: Sequence[str] = (),
        window: int,
        on_messages: Callable[[list[Incoming]], None],
        on_lost: Callable[[], None],
        manual_ack: bool = True,
        persistent: bool = True,
        by_connection: bool = True,
    ) -> None:
        """Subscribe to `topics`, and unsubscribe from `former_topics`, which the session may remember.

        `window`: how many messages the broker may send ahead of their acknowledgements (MQTT 5).

        The last three are off only in tests that show that messages are lost without them.
        """
        self._address = address_of(settings.MQTT_URL)
        self._client_id = client_id
        self._topics = topics
        self._former_topics = former_topics
        self._window = window
        self._on_messages = on_messages
        self._on_lost = on_lost
        self._manual_ack = manual_ack
        self._persistent = persistent
        self._by_connection = by_connection
        self._version = mqtt.MQTTv5
        self._epoch = 0
        self._reconnect = Backoff()
        self._connected_at = 0.0
        # The number of successive connections that the broker ended soon.
        self._short_lived = 0
        # Whether the broker has accepted the connection, or said why not.
        self._is_answered = False
        # Topics with a message that the broker has retained.
        self._retained: set[bytes] = set()
        self._clear_at = 0.0
        self._client = self._make_client()

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._client.is_connected()

    def exchange(self, timeout: float, *, reading: bool, also: int | None = None) -> bool:
        """Wait up to `timeout` seconds, read the available bytes if `reading`, and write the queued ones.

        Stops waiting when the socket `also` becomes readable, and returns whether it did.
        """
        if self._client.socket() is None:
            self._connect()
        sock = cast(Any, self._client.socket())
        others = [] if also is None else [also]
        if sock is None:
            return bool(select.select(others, [], [], timeout)[0])
        wanted = [sock, *others] if reading else others
        writing = [sock] if self._client.want_write() else []
        readable, writable, _ = select.select(wanted, writing, [], 0 if reading and sock.pending() else timeout)
        if sock in readable or (reading and sock.pending()):
            self._client.loop_read()
        if self._retained:
            self._clear_retained()
        if writable or self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()
        # The library itself waits twice the keep-alive.
        self._client.drop_if_silent(1.5 * KEEPALIVE_SECONDS)
        return also in readable

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish a message of the platform's own with QoS 1; there must be a connection."""
        self._client.publish(topic, payload, qos=1)

    def acknowledge(self, messages: Iterable[Incoming]) -> None:
        """Acknowledge messages, in this order, except those of an earlier connection."""
        if self._manual_ack:
            epoch, any_epoch = self._epoch, not self._by_connection
            self._client.acknowledge(
                [message.mid for message in messages if (message.epoch == epoch or any_epoch) and message.qos]
            )

    def acknowledge_ids(self, mids: Sequence[int], epoch: int) -> None:
        """Acknowledge messages by their ids on the connection `epoch`, where that is the present one."""
        if self._manual_ack and (epoch == self._epoch or not self._by_connection):
            self._client.acknowledge(mids)

    def close(self, seconds: float, *, for_good: bool = False) -> None:
        """Write the queued bytes for at most `seconds`, and disconnect; the session ends only with `for_good`."""
        deadline = time.monotonic() + seconds
        while self._client.want_write() and time.monotonic() < deadline:
            self._client.loop_write()
            time.sleep(0.001)
        self._client.leave(max(0.1, deadline - time.monotonic()), for_good=for_good)

    def _make_client(self) -> BufferedClient:
        client = make_client_of(
            BufferedClient,
            settings.MQTT_URL,
            self._client_id,
            protocol=self._version,
            clean_session=None if self._version == mqtt.MQTTv5 else not self._persistent,
            manual_ack=self._manual_ack,
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publishes = self._on_publishes
        return client

    def _connect(self) -> None:
        if self._reconnect.is_pausing:
            return
        self._is_answered = False
        options: dict[str, Any] = {}
        if self._version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            if self._persistent:
                properties.SessionExpiryInterval = _SESSION_SECONDS
            properties.ReceiveMaximum = self._window
            options = {"clean_start": not self._persistent, "properties": properties}
        try:
            self._client.connect(self._address.host, self._address.port, keepalive=KEEPALIVE_SECONDS, **options)
        except OSError as error:
            self._on_connection_failed(f"cannot be reached: {error}")

    def _on_connection_failed(self, reason: str) -> None:
        logger.warning("The broker %s; next attempt in %.1f s", reason, self._reconnect.fail())

    def _on_connect(self, client: mqtt.Client, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        self._is_answered = True
        if reason.is_failure:
            if reason.value == _UNSUPPORTED_VERSION and self._version == mqtt.MQTTv5:
                self._version = MQTTProtocolVersion.MQTTv311
            logger.error("The broker rejects the connection: %s", reason)
            return
        self._epoch += 1
        self._connected_at = time.monotonic()
        # Even where the broker has the session: its shared subscription may be lost after a restart.
        if self._former_topics:
            client.unsubscribe(list(self._former_topics))
        if not self._topics:
            pass
        elif self._version == mqtt.MQTTv5:
            client.subscribe([(topic, _OPTIONS) for topic in self._topics])
        else:
            client.subscribe([(topic, 1) for topic in self._topics])
        logger.info(
            "Connected to the broker (MQTT %s, session present: %s)",
            "5" if self._version == mqtt.MQTTv5 else "3.1.1",
            flags.session_present,
        )

    def _on_disconnect(self, _client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _props: Any) -> None:
        is_takeover = reason.value == _TAKEN_OVER
        self._note_duration(is_takeover=is_takeover)
        if self._short_lived and not is_takeover:
            self._report_refusal()
        if self._by_connection:
            self._on_lost()
        self._on_connection_failed(f"ended the connection: {reason}")
        if self._client._protocol != self._version:
            logger.warning("The broker does not support MQTT 5: continuing with 3.1.1, without flow control")
            self._client = self._make_client()
            self._reconnect.retry_now()

    def _report_refusal(self) -> None:
        """Report a broker that ends a connection before it accepts it or soon after: it may lack memory."""
        logger.error(
            "The broker ends connections at once: it may have reached its limit of memory or of connections."
            " Messages wait at the broker and at devices until it serves the platform again"
        )
        metrics.record({}, {"broker_refusals_total": 1})

    def _note_duration(self, *, is_takeover: bool) -> None:
        """Count short connections, and report two clients of one name, which end each other's connections.

        Not every broker gives the reason.
        """
        is_short = not self._is_answered or time.monotonic() - self._connected_at < _SHORT_SECONDS
        self._short_lived = self._short_lived + 1 if is_short else 0
        if not is_short:
            self._reconnect.reset()
        if self._is_answered and (is_takeover or self._short_lived == _MANY_SHORT):
            logger.error(
                "The session %r is taken over again and again: each listener must have a --client-id of its own",
                self._client_id,
            )
            metrics.record({}, {"listener_takeovers_total": 1})

    def _on_publishes(self, publishes: list[Publish]) -> None:
        now = datetime.now(UTC)
        epoch = self._epoch
        if retained := [publish for publish in publishes if publish.retained]:
            stale = [publish for publish in retained if self._is_stale(publish.topic, publish.payload)]
            self._client.acknowledge([publish.mid for publish in stale if publish.mid])
            dropped = set(map(id, stale))
            publishes = [publish for publish in publishes if id(publish) not in dropped]
        self._on_messages(
            [
                Incoming(topic.decode("utf-8", "backslashreplace"), payload, now, mid, 1 if mid else 0, epoch)
                for topic, payload, mid, _ in publishes
            ]
        )
        if not self._manual_ack:
            self._client.acknowledge([publish.mid for publish in publishes if publish.mid])

    def _on_message(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        """Receive a message of QoS 2."""
        if not (message.retain and self._is_stale(message._topic, bytes(message.payload))):
            # Not message.topic: it raises on bytes that are not UTF-8.
            topic = message._topic.decode("utf-8", "backslashreplace")
            self._on_messages([Incoming(topic, bytes(message.payload), datetime.now(UTC), message.mid, 0, self._epoch)])

    # --- retained messages ------------------------------------------------------------------------------------

    def _is_stale(self, topic: bytes, payload: bytes) -> bool:
        """Return whether a message with the retain flag must be dropped; note one that the broker has retained.

        MQTT 5 sends no old messages, so that the flag is the publisher's: the message is processed like any other, and
        the broker must not keep it. An empty one removes what is retained. In 3.1.1 the flag means an old message,
        which cannot be declined: a retained will would set its device OFFLINE at every reconnect.
        """
        if self._version != mqtt.MQTTv5:
            return True
        if not payload:
            return True
        self._retained.add(topic)
        return False

    def _clear_retained(self) -> None:
        """Remove the messages that devices have retained at the broker, each topic once a second."""
        now = time.monotonic()
        if not self._client.is_connected() or (now < self._clear_at and len(self._retained) < _MOST_RETAINED):
            return
        self._clear_at = now + _CLEAR_SECONDS
        topics, self._retained = self._retained, set()
        for topic in topics:
            self._client.publish(topic.decode("utf-8", "replace"), b"", qos=0, retain=True)
        metrics.record({}, {"retained_cleared_total": len(topics)})
