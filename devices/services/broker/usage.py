"""Usage of Mosquitto, by its own counters below `$SYS`: connections, absent sessions, and stored messages.

Mosquitto has no counters of a single account. EMQX has metrics of its own.
"""

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from uuid import uuid4

import paho.mqtt.client as mqtt
from django.conf import settings
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from devices.services.broker.connection import address_of, make_client

logger = logging.getLogger(__name__)

_FRESH_SECONDS = 15.0
_WAIT_SECONDS = 2.0
# The counters come together, after the subscription.
_QUIET_SECONDS = 0.3
# It changes always: without it the broker does not answer.
_UPTIME = "uptime"
_ROOT = "$SYS/broker/"
# Counter of the broker → metric and its meaning.
GAUGES = {
    "clients/connected": ("broker_connected_clients", "Connected clients."),
    "clients/disconnected": ("broker_absent_sessions", "Persistent sessions without a connection."),
    "store/messages/count": ("broker_stored_messages", "Messages in queues, and retained ones."),
    "store/messages/bytes": ("broker_stored_bytes", "Bytes of the payloads of stored messages."),
    "retained messages/count": ("broker_retained_messages", "Retained messages, with the broker's own."),
}
COUNTERS = {
    "publish/messages/dropped": ("broker_dropped_messages", "Messages that the broker dropped: a queue was full."),
}


class BrokerUsage:
    """The counters, read every few seconds at most.

    Mosquitto removes a counter that did not change for a minute: the last known value is kept.
    """

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._read_at = -_FRESH_SECONDS
        self._lock = threading.Lock()

    def values(self) -> dict[str, float]:
        """Return the counters by their topic below `$SYS/broker/`; empty while the broker does not answer."""
        with self._lock:
            if time.monotonic() - self._read_at >= _FRESH_SECONDS:
                found = _read()
                self._values = {**self._values, **found} if found else {}
                self._read_at = time.monotonic()
            return self._values

    def collect(self) -> Iterable[Metric]:
        """Yield the Prometheus metric families; none for a broker that the platform does not manage."""
        if not settings.MQTT_ADMIN_URL or not settings.MQTT_URL:
            return
        values = self.values()
        yield GaugeMetricFamily("gwanje_broker_up", "Whether the broker answers the platform.", float(bool(values)))
        for topic, (name, text) in GAUGES.items():
            if topic in values:
                yield GaugeMetricFamily(f"gwanje_{name}", text, values[topic])
        for topic, (name, text) in COUNTERS.items():
            if topic in values:
                yield CounterMetricFamily(f"gwanje_{name}", text, values[topic])


# One for the process.
BROKER_USAGE = BrokerUsage()


def _read() -> dict[str, float]:
    """Return the counters, which the broker has retained; those that arrive within two seconds."""
    wanted, found = {*GAUGES, *COUNTERS, _UPTIME}, dict[str, float]()
    deadline = time.monotonic() + _WAIT_SECONDS

    def keep(_client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        nonlocal deadline
        deadline = min(deadline, time.monotonic() + _QUIET_SECONDS)
        with suppress(ValueError):
            found[message.topic.removeprefix(_ROOT)] = max(0.0, float(message.payload.partition(b" ")[0]))

    address = address_of(settings.MQTT_URL)
    client = make_client(settings.MQTT_URL, f"gwanje-usage-{uuid4().hex[:12]}", reconnect_on_failure=False)

    def subscribe(*_: object) -> None:
        client.subscribe([(_ROOT + topic, 0) for topic in wanted])

    client.on_connect = subscribe
    client.on_message = keep
    try:
        client.connect(address.host, address.port, keepalive=10)
        while found.keys() != wanted and time.monotonic() < deadline:
            if client.loop(0.05) != mqtt.MQTT_ERR_SUCCESS:
                break
    except OSError as error:
        logger.warning("The usage of the broker at %s cannot be read: %s", address, error)
    client.disconnect()
    client.loop(0)
    return found
