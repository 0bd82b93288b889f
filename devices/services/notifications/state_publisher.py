"""The notifier's MQTT connection: publishes states, waits for acknowledgements, and receives requests for states.

Each connection is a new client: messages in flight on an old one are never resent by the client library, so that an old
state cannot arrive after a newer one that another notifier has published.
"""

import logging
import select
import time
from collections import deque
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import paho.mqtt.client as mqtt
from django.conf import settings
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from devices.services.broker.connection import address_of, make_client
from devices.services.broker.errors import BrokerUnavailable
from tenants.infrastructure.retry import Backoff

logger = logging.getLogger(__name__)

REQUESTS = "client/request_state/#"
KEEPALIVE_SECONDS = 30
_SESSION_SECONDS = 24 * 3600
_ACKNOWLEDGED_WITHIN = 10.0
_UNDER_WAY = 100
# Requests for states of one tenant that are not answered yet; more are dropped, and the app requests again.
MOST_REQUESTS = 1000
# Tenants with requests; more names than this are none of tenants.
_MOST_TENANTS = 10_000


class RequestRate:
    """The requests of one tenant that may be answered now: a token bucket of this process."""

    def __init__(self) -> None:
        self._tokens, self._filled_at = float(MOST_REQUESTS), time.monotonic()

    @property
    def is_full(self) -> bool:
        """Return whether the tenant may request as many as after a long pause."""
        self._fill()
        return self._tokens >= MOST_REQUESTS or not settings.STATE_REQUESTS_PER_SECOND

    def take(self) -> bool:
        """Take one request, and return whether there was one. A rate of 0 is unlimited."""
        self._fill()
        if self._tokens < 1 and settings.STATE_REQUESTS_PER_SECOND:
            return False
        self._tokens = max(0.0, self._tokens - 1)
        return True

    def give_back(self) -> None:
        """Return a request that was taken and not used."""
        self._tokens += 1

    def _fill(self) -> None:
        now = time.monotonic()
        gained = (now - self._filled_at) * settings.STATE_REQUESTS_PER_SECOND
        self._tokens, self._filled_at = min(float(MOST_REQUESTS), self._tokens + gained), now


class StateBroker:
    """One MQTT session, driven by the notifier's loop."""

    def __init__(self, client_id: str = "") -> None:
        self._address = address_of(settings.MQTT_URL)
        self._client_id = client_id or settings.MQTT_NOTIFIER_CLIENT_ID
        self._client: mqtt.Client | None = None
        self._unacknowledged: set[int] = set()
        self._refusals: list[str] = []
        # By slug, in the order in which tenants are served next; the oldest request of each first.
        self._requests: dict[str, dict[UUID, None]] = {}
        self._allowed: dict[str, RequestRate] = {}
        self._dropped = 0
        self._reconnect = Backoff()

    @property
    def is_connected(self) -> bool:
        """Return whether the broker has accepted the connection and it is not known to be lost."""
        return self._client is not None and self._client.is_connected()

    def exchange(self, timeout: float, also: Sequence[Any] = ()) -> None:
        """Wait up to `timeout` seconds for the broker or for data on `also`, and process due work."""
        if self._client is None:
            self._connect()
        client = self._client
        sock: Any = client.socket() if client else None
        reading = [*also, sock] if sock else [*also]
        writing = [sock] if client and sock and client.want_write() else []
        readable, _, _ = select.select(reading, writing, [], timeout)
        if client is None or sock is None:
            return
        if sock in readable:
            self._read(client, sock)
        if client.want_write():
            client.loop_write()
        client.loop_misc()

    def publish(self, messages: Sequence[tuple[str, bytes]], *, passing_seconds: int | None = None) -> None:
        """Publish (topic, payload) retained, in order, and wait for all acknowledgements. Raises BrokerUnavailable.

        With `passing_seconds` they are not retained, and expire after that time.
        """
        if not messages:
            return
        client = self._client
        if client is None or not client.is_connected():
            raise BrokerUnavailable("The broker is not connected.")
        self._unacknowledged.clear()
        self._refusals.clear()
        properties = Properties(PacketTypes.PUBLISH)
        if passing_seconds is not None:
            properties.MessageExpiryInterval = passing_seconds
        for topic, payload in messages:
            info = client.publish(topic, payload, qos=1, retain=passing_seconds is None, properties=properties)
            self._unacknowledged.add(info.mid)
        try:
            self._await_acknowledgements(client)
        except BrokerUnavailable:
            self._drop()
            raise

    @property
    def has_requests(self) -> bool:
        """Return whether requests wait."""
        return bool(self._requests)

    def take_requests(self, limit: int) -> list[tuple[str, UUID]]:
        """Remove and return the oldest requests as (slug, device UUID), each once: one of each tenant in turn.

        Of one tenant at most `STATE_REQUESTS_PER_SECOND`, and `MOST_REQUESTS` at once after a pause; others wait.
        """
        taken: list[tuple[str, UUID]] = []
        for slug in self._requests:
            self._allowed.setdefault(slug, RequestRate())
        ready = deque(slug for slug in self._requests if self._allowed[slug].take())
        while ready and len(taken) < limit:
            slug = ready.popleft()
            waiting = self._requests.pop(slug)
            uuid = next(iter(waiting))
            del waiting[uuid]
            taken.append((slug, uuid))
            if waiting:
                self._requests[slug] = waiting  # behind the other tenants
                if self._allowed[slug].take():
                    ready.append(slug)
        for slug in ready:
            self._allowed[slug].give_back()
        self._forget_rates()
        return taken

    def take_dropped(self) -> int:
        """Return how many requests were dropped since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def restore_requests(self, requests: Sequence[tuple[str, UUID]]) -> None:
        """Put back requests that could not be answered now."""
        for slug, uuid in requests:
            self._add_request(slug, uuid)

    def close(self) -> None:
        """Disconnect; the session, with requests in the meantime, waits for the next start."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_write()

    def _await_acknowledgements(self, client: mqtt.Client) -> None:
        left, deadline = len(self._unacknowledged), time.monotonic() + _ACKNOWLEDGED_WITHIN
        while self._unacknowledged:
            if self._client is not client:
                raise BrokerUnavailable("The connection to the broker was lost.")
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"The broker does not acknowledge {left} states.")
            self.exchange(0.05)
            if len(self._unacknowledged) < left:
                left, deadline = len(self._unacknowledged), time.monotonic() + _ACKNOWLEDGED_WITHIN
        if self._refusals:
            raise BrokerUnavailable(f"The broker rejects states: {self._refusals[0]}")

    # --- the connection ---------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._reconnect.is_pausing:
            return
        client = self._make_client()
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = _SESSION_SECONDS
        try:
            client.connect(
                self._address.host,
                self._address.port,
                keepalive=KEEPALIVE_SECONDS,
                clean_start=False,
                properties=properties,
            )
        except OSError as error:
            self._lost(f"cannot be reached: {error}")
        else:
            self._client = client

    def _make_client(self) -> mqtt.Client:
        client = make_client(settings.MQTT_URL, self._client_id, protocol=mqtt.MQTTv5)
        client.max_inflight_messages_set(_UNDER_WAY)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    def _read(self, client: mqtt.Client, sock: Any) -> None:
        """Read packets while there are any; TLS may buffer some that select() does not see."""
        client.loop_read()
        pending = getattr(sock, "pending", None)
        while pending and client.socket() is sock and pending():
            client.loop_read()

    def _lost(self, why: str) -> None:
        logger.warning("The broker %s; next attempt in %.1f s", why, self._reconnect.fail())
        self._client = None

    def _drop(self) -> None:
        """Close the connection, with the messages in flight on it."""
        client, self._client = self._client, None
        sock = client.socket() if client else None
        if client and sock:
            sock.close()
            self._lost("is given up")

    def _on_connect(self, client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            logger.error("The broker refuses the connection: %s", reason)
            return
        self._reconnect.reset()
        options = SubscribeOptions(
            qos=1, noLocal=True, retainAsPublished=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND
        )
        client.subscribe([(REQUESTS, options)])
        logger.info("Connected to the broker as %s", self._client_id)

    def _on_disconnect(self, client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _props: Any) -> None:
        if client is self._client:
            self._lost(f"is gone: {reason}")

    def _on_publish(self, client: mqtt.Client, _userdata: Any, mid: int, reason: Any, _properties: Any) -> None:
        if client is not self._client:
            return
        self._unacknowledged.discard(mid)
        if reason.is_failure:
            self._refusals.append(str(reason))

    def _on_message(self, client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        topic = message._topic.decode("utf-8", "backslashreplace")
        if message.retain and message.payload:
            # Apps retain nothing at the broker: an empty message removes it.
            client.publish(topic, b"", qos=0, retain=True)
        request = parse_request(topic)
        if request is not None:
            self._add_request(*request)

    def _forget_rates(self) -> None:
        """Forget the rates of tenants that have no requests and are at the full burst again."""
        for slug in [slug for slug, rate in self._allowed.items() if slug not in self._requests and rate.is_full]:
            del self._allowed[slug]

    def _add_request(self, slug: str, uuid: UUID) -> None:
        waiting = self._requests.get(slug)
        if waiting is None:
            if len(self._requests) >= _MOST_TENANTS:
                self._dropped += 1
                return
            waiting = self._requests[slug] = {}
        if len(waiting) < MOST_REQUESTS or uuid in waiting:
            waiting[uuid] = None
        else:
            self._dropped += 1


def parse_request(topic: str) -> tuple[str, UUID] | None:
    """Return the slug and device of `client/request_state/{slug}/{uuid}`; None for other topics."""
    parts = topic.split("/")
    if len(parts) != 4:
        return None
    try:
        return parts[2], UUID(parts[3])
    except ValueError:
        return None
