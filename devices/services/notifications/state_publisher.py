"""The notifier's MQTT connection: publishes states, waits for acknowledgements, and receives requests for states.

Each connection is a new client: messages in flight on an old one are never resent by the client library, so that an old
state cannot arrive after a newer one that another notifier has published.
"""

import logging
import select
import time
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
# Requests for states that are not answered yet; more are dropped.
_MOST_REQUESTS = 10_000


class StateBroker:
    """One MQTT session, driven by the notifier's loop."""

    def __init__(self, client_id: str = "") -> None:
        self._address = address_of(settings.MQTT_URL)
        self._client_id = client_id or settings.MQTT_NOTIFIER_CLIENT_ID
        self._client: mqtt.Client | None = None
        self._unacknowledged: set[int] = set()
        self._refusals: list[str] = []
        self._requests: dict[tuple[str, UUID], None] = {}
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

    def requests(self, limit: int) -> list[tuple[str, UUID]]:
        """Return the oldest requests as (slug, device UUID), each once."""
        return list(self._requests)[:limit]

    def forget(self, requests: Sequence[tuple[str, UUID]]) -> None:
        """Remove requests that have been answered."""
        for request in requests:
            self._requests.pop(request, None)

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
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
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

    def _on_message(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        request = parse_request(message._topic.decode("utf-8", "backslashreplace"))
        if request is not None and len(self._requests) < _MOST_REQUESTS:
            self._requests[request] = None


def parse_request(topic: str) -> tuple[str, UUID] | None:
    """Return the slug and device of `client/request_state/{slug}/{uuid}`; None for other topics."""
    parts = topic.split("/")
    if len(parts) != 4:
        return None
    try:
        return parts[2], UUID(parts[3])
    except ValueError:
        return None
