"""From the broker's publication of a will to its row in the ledger, beside 200 messages a second of other traffic."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import paho.mqtt.client as mqtt
from django_redis import get_redis_connection
from django_tenants.utils import schema_context
from paho.mqtt.enums import CallbackAPIVersion

from devices.models import DeviceStatus, StatusChange
from devices.services.presence import activity
from devices.services.presence import redis_scripts as scripts
from devices.services.provisioning.registration import IssuedCredentials, register_device
from management.device_client.gwanje_device import sign_v2
from management.quickstart.hardware import install_hardware
from tenants.services.lifecycle import create_tenant

_SLUG = "wills"
_PATIENCE_SECONDS = 30.0


def run(*, wills: int, rate: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, verify that every will is in the ledger once, and return the figures (milliseconds)."""
    say(f"Registering {wills} devices")
    tenant = create_tenant(slug=_SLUG, name="Wills")
    with schema_context(tenant.schema_name):
        _, types = install_hardware()
        issued = [register_device(name=f"d{n}", components={"dht22": types["dht22"]})[1] for n in range(wills + 1)]
    say(f"{wills} wills beside {rate} messages a second")
    listener = subprocess.Popen([sys.executable, "manage.py", "run_mqtt_listener"], stderr=subprocess.DEVNULL)
    try:
        began, redis = activity.redis_now(), get_redis_connection("default")
        # The broker keeps nothing for a listener that it has never seen.
        _wait(lambda: float(redis.hget(scripts.LISTENING, "last") or 0) > began, "no listener")
        published = _publish(issued, rate, tenant.schema_name)
    finally:
        listener.terminate()
        listener.wait()
    return {"wills": wills, "messages_per_second": rate} | _lags(published, tenant.schema_name)


def _publish(issued: list[IssuedCredentials], rate: int, schema: str) -> dict[UUID, datetime]:
    """Connect every device but the last, which the traffic comes from; then cut one after the other."""
    published: dict[UUID, datetime] = {}
    observer = _client(*_account("MQTT_URL"), client_id="observer")

    def note(_client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        published.setdefault(UUID(message.topic.rsplit("/", 1)[1]), datetime.now(UTC))

    observer.on_message = note
    observer.subscribe("device/lwt/+", qos=1)
    connected = [_device(credentials) for credentials in issued[:-1]]
    _wait(lambda: _count(schema, "ONLINE") == len(connected), "the devices are not all ONLINE")
    stop = threading.Event()
    traffic = threading.Thread(target=_traffic, args=(issued[-1], rate, stop))
    traffic.start()
    for client in connected:
        time.sleep(0.1)
        client.loop_stop()
        client.socket().close()  # type: ignore[union-attr]  # it is connected
    _wait(lambda: _count(schema, "OFFLINE") == len(connected), "not every will is in the ledger")
    stop.set()
    traffic.join()
    observer.disconnect()
    return published


def _device(credentials: IssuedCredentials) -> mqtt.Client:
    uuid = str(credentials.uuid)
    will = json.dumps({"device_uuid": uuid, "status": "OFFLINE", "session": "s"})
    client = _client(uuid, credentials.mqtt_password, client_id=uuid, will=(f"device/lwt/{uuid}", will))
    birth = {"device_uuid": uuid, "session": "s", "timestamp": datetime.now(UTC).isoformat()}
    client.publish(f"device/birth/{uuid}", sign_v2(birth, credentials.secret, str(credentials.key_version)), qos=1)
    return client


def _traffic(credentials: IssuedCredentials, rate: int, stop: threading.Event) -> None:
    client = _client(*_account("MQTT_BRIDGE_URL"), client_id="traffic")
    uuid, seq = str(credentials.uuid), 0
    while not stop.is_set():
        message = {
            "timestamp": datetime.now(UTC).isoformat(),
            "device_uuid": uuid,
            "component": "dht22",
            "boot": 1,
            "seq": seq,
            "value": {"temp": 20, "humidity": 50},
        }
        token = sign_v2(message, credentials.secret, str(credentials.key_version))
        client.publish(f"telemetry/{_SLUG}/{uuid}/dht22", token, qos=1)
        seq += 1
        time.sleep(1 / rate)
    client.disconnect()


def _client(username: str, password: str, *, client_id: str, will: tuple[str, str] | None = None) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
    client.username_pw_set(username, password)
    if will is not None:
        client.will_set(*will, qos=1)
    ready = threading.Event()
    client.on_connect = lambda *_: ready.set()
    client.connect("127.0.0.1", int(os.environ["MQTT_PORT"]), keepalive=60)
    client.loop_start()
    if not ready.wait(10):
        raise AssertionError("the broker does not answer")
    return client


def _account(variable: str) -> tuple[str, str]:
    url = urlsplit(os.environ[variable])
    return unquote(url.username or ""), unquote(url.password or "")


def _count(schema: str, status: str) -> int:
    with schema_context(schema):
        return DeviceStatus.objects.filter(status=status).count()


def _wait(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise)
        time.sleep(0.1)


def _lags(published: dict[UUID, datetime], schema: str) -> dict[str, float]:
    with schema_context(schema):
        rows = StatusChange.objects.filter(to_status="OFFLINE").values_list("device__uuid", "at")
        lags = sorted((at - published[uuid]).total_seconds() * 1000 for uuid, at in rows)
    assert len(lags) == len(published), "a will is in the ledger twice"
    return {"p50_ms": round(lags[len(lags) // 2], 1), "p99_ms": round(lags[int(0.99 * len(lags))], 1)}
