"""Retained messages to remove from the broker: states of removed devices, and messages of devices and apps."""

import threading
import time
from collections.abc import Iterable, Sequence, Sized
from uuid import UUID, uuid4

import paho.mqtt.client as mqtt
from django.conf import settings
from paho.mqtt.reasoncodes import ReasonCode

from devices.services.broker.connection import address_of, make_client
from devices.services.broker.errors import BrokerUnavailable

STATE_TOPIC = "client/state/{slug}/{uuid}"
_WAIT_SECONDS = 5.0
_UNDER_WAY = 500
_QUIET_SECONDS = 1.0
# Only states are retained. Listeners and notifiers clear all other topics as they receive them; responses to commands
# have no receiver most of the time, and telemetry may be left from a time without a listener.
_RESPONSES = ("command/+/+/response", "client/request_state/#")
_TELEMETRY = ("telemetry/#", "device/#")
_MOST_STRAYS = 100_000


def clear_retained(devices: Iterable[tuple[str, UUID]]) -> None:
    """Remove the retained states of devices (tenant's slug, UUID). Raises BrokerUnavailable."""
    topics = [STATE_TOPIC.format(slug=slug, uuid=uuid) for slug, uuid in devices]
    if not topics or not settings.MQTT_URL:
        return
    with _Connection() as connection:
        connection.clear(topics)


def list_retained() -> set[tuple[str, UUID]]:
    """Return the devices with a retained state (tenant's slug, UUID). Raises BrokerUnavailable."""
    if not settings.MQTT_URL:
        return set()
    with _Connection() as connection:
        return connection.retained()


def clear_strays(*, telemetry: bool) -> int:
    """Remove retained messages of devices and apps, and return their number, at most 100,000. Raises BrokerUnavailable.

    With `telemetry` also telemetry, births and wills, for which it receives the live ones of a second or two.
    """
    if not settings.MQTT_URL:
        return 0
    with _Connection() as connection:
        topics = connection.strays(_RESPONSES + (_TELEMETRY if telemetry else ()))
        connection.clear(topics)
    return len(topics)


class _Connection:
    """A connection with the platform's account and a client id of its own, so that it takes over no session."""

    def __init__(self) -> None:
        self._address = address_of(settings.MQTT_URL)
        self._connected = threading.Event()
        self._answer: ReasonCode | None = None
        self._found: set[tuple[str, UUID]] = set()
        self._client = make_client(settings.MQTT_URL, f"gwanje-states-{uuid4().hex[:12]}")
        self._client.max_inflight_messages_set(_UNDER_WAY)
        self._client.on_connect = self._on_connect

    def __enter__(self) -> "_Connection":
        try:
            self._client.connect(self._address.host, self._address.port, keepalive=30)
        except OSError as error:
            raise BrokerUnavailable(f"The broker at {self._address} does not respond.") from error
        self._client.loop_start()
        if not self._connected.wait(_WAIT_SECONDS) or self._answer is None or self._answer.is_failure:
            self.__exit__()
            raise BrokerUnavailable(f"The broker rejects the platform: {self._answer or 'no response'}")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, _client: object, _userdata: object, _flags: object, reason: ReasonCode, _p: object) -> None:
        self._answer = reason
        self._connected.set()

    def clear(self, topics: Iterable[str]) -> None:
        """Publish an empty retained message on each topic."""
        published = [self._client.publish(topic, b"", qos=1, retain=True) for topic in topics]
        for message in published:
            try:
                message.wait_for_publish(_WAIT_SECONDS)
            except (RuntimeError, ValueError) as error:
                raise BrokerUnavailable(f"The broker does not clear a state: {error}") from error
            if not message.is_published():
                raise BrokerUnavailable("The broker did not clear a state in time.")

    def retained(self) -> set[tuple[str, UUID]]:
        """Return the devices with a retained state, once the broker has sent none for a second."""
        self._client.on_message = self._note
        self._client.subscribe(STATE_TOPIC.format(slug="+", uuid="+"), qos=1)
        self._await_quiet(self._found)
        return set(self._found)

    def strays(self, filters: Sequence[str]) -> set[str]:
        """Return the topics with a retained message, once the broker has sent none for a second."""
        found: set[str] = set()

        def note(_client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
            # In MQTT 3.1.1 the flag is that of an old message, never of a live one.
            if message.retain and len(found) < _MOST_STRAYS:
                found.add(message._topic.decode("utf-8", "replace"))

        self._client.on_message = note
        self._client.subscribe([(each, 0) for each in filters])
        self._await_quiet(found)
        self._client.unsubscribe(list(filters))
        return found

    def _await_quiet(self, found: Sized) -> None:
        count = -1
        while count != len(found):
            count = len(found)
            time.sleep(_QUIET_SECONDS)

    def _note(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        parts = message.topic.split("/")
        if not message.retain or len(parts) != 4:
            return
        try:
            self._found.add((parts[2], UUID(parts[3])))
        except ValueError:
            return
