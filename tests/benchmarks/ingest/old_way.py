"""The old way, as a first version of such a server is competently written: the baseline of all ratios.

- One paho client with its own thread (`loop_start`) and paho's automatic acknowledgement.
- A pool of ten threads, so that messages wait for PostgreSQL beside each other.
- For each message one transaction of Django's ORM, with what such code does in it, each a statement of its own: the
  device with its owner by the UUID in the topic (the owner's secret verifies the message: version 1 over Python's own
  JSON, version 2 over the bytes), its attached component of the topic's type, the device's `last_seen`, the message as
  received, and a row (device, timestamp, metric, value, unit) for each reading.

That is `old`, the base of the goals: the server that is replaced looked all of this up for each message, as it
had no cache that could be wrong after a change of a key or of the hardware. `old_lean` is the same without what a
cache, however it were kept right, and bulk statements could spare it: devices and secrets are read once, at the
start; the component is not looked up, and `last_seen` not written; the readings of a message go in one statement.

Both are spared what would make them slower and has nothing to do with their design: they have no tenants and so no
search path to set, connections stay open, and there are the indexes that the queries need and no others. Both also do
less: no registered metrics, no ranges, no quarantine, no presence, and what is in the pool is lost when it dies.

A program of its own, with settings of its own. It reads one JSON object from its standard input, {"devices":
{uuid: secret}, "lean": whether}, makes its tables in the schema `old_way`, prints `ready`, and runs until SIGTERM.
"""

import base64
import hashlib
import hmac
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

SCHEMA = "old_way"
COMPONENT = "bme280"
_THREADS = 10

logger = logging.getLogger(__name__)


def configure() -> None:
    """Django with this program's tables and nothing else."""
    import django
    from django.conf import settings

    url = urlsplit(os.environ["DATABASE_URL"])
    settings.configure(
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": url.hostname,
                "PORT": url.port,
                "NAME": url.path.lstrip("/"),
                "USER": unquote(url.username or ""),
                "PASSWORD": unquote(url.password or ""),
                "CONN_MAX_AGE": None,
                "OPTIONS": {"options": f"-c search_path={SCHEMA}"},
            }
        },
    )
    django.setup()


def main() -> None:
    configure()
    wanted = json.loads(sys.stdin.readline())
    from . import old_server

    old_server.make_tables(wanted["devices"], COMPONENT)
    store = old_server.lean_store(wanted["devices"]) if wanted["lean"] else old_server.store

    def handle(topic: str, payload: bytes) -> None:
        try:
            store(topic, payload)
        except Exception:
            logger.exception("A message on %s is not stored", topic)

    serve(handle)


def opened(payload: bytes, secret: bytes) -> dict[str, Any]:
    """The message in the payload, verified. Raises ValueError."""
    if payload[:1] != b"{":
        signed, _, signature = payload.rpartition(b".")
        digest = hmac.new(secret, signed, hashlib.sha256).digest()
        if not hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"="), signature):
            raise ValueError("wrong signature")
        body = signed.partition(b".")[2]
        return dict(json.loads(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4))))
    message = dict(json.loads(payload))
    given = message.pop("hmac")
    text = f"{message['timestamp']}|{json.dumps(message, sort_keys=True)}"
    digest = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(base64.b64encode(digest), given.encode()):
        raise ValueError("wrong signature")
    return message


def serve(handle: Callable[[str, bytes], None]) -> None:
    """Receive and hand over to the pool, until SIGTERM."""
    stop, subscribed = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    url = urlsplit(os.environ["MQTT_URL"])
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench-old-way")
    client.username_pw_set(unquote(url.username or ""), unquote(url.password or ""))

    def on_connect(*_: Any) -> None:
        client.subscribe("telemetry/#", qos=1)

    def on_message(_client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        pool.submit(handle, message.topic, bytes(message.payload))

    with ThreadPoolExecutor(_THREADS) as pool:
        client.on_message = on_message
        client.on_connect = on_connect
        client.on_subscribe = lambda *_: subscribed.set()
        client.connect(url.hostname or "localhost", url.port or 1883)
        client.loop_start()
        if not subscribed.wait(10):
            raise SystemExit("the broker does not answer")
        print("ready", flush=True)  # noqa: T201 (this is what it is started for)
        stop.wait()
        client.disconnect()
        client.loop_stop()


if __name__ == "__main__":
    main()
