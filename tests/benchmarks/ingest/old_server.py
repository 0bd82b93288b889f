"""The processing of a message in the old way. Imported by `old_way` alone, after it has configured Django."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from tests.benchmarks.ingest.old_tables import SCHEMA, Component, Device, Message, Owner, Reading
from tests.benchmarks.ingest.old_way import opened

UNITS = {"temp": ("temperature", "°C"), "humidity": ("humidity", "%"), "pressure": ("pressure", "hPa")}


def make_tables(secrets: dict[str, str], component: str) -> None:
    """The tables, anew, with a device of an owner of its own for each UUID, and a component of that type on each."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
    with connection.schema_editor() as editor:
        for model in (Owner, Device, Component, Message, Reading):
            editor.create_model(model)
    owners = Owner._default_manager.bulk_create(Owner(secret=secret) for secret in secrets.values())
    devices = Device._default_manager.bulk_create(
        Device(uuid=uuid, owner=owner) for uuid, owner in zip(secrets, owners, strict=True)
    )
    Component._default_manager.bulk_create(Component(device=device, type=component) for device in devices)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")  # as autovacuum does after a while


def store(topic: str, payload: bytes) -> None:
    """`old`: look up, verify, and keep, in one transaction."""
    _, _, uuid, component = topic.split("/")
    with transaction.atomic():
        device = Device._default_manager.select_related("owner").get(uuid=uuid)
        message = opened(payload, device.owner.secret.encode())
        Component._default_manager.get(device=device, type=component, attached=True)
        device.last_seen = timezone.now()
        device.save(update_fields=["last_seen"])
        timestamp = datetime.fromisoformat(message["timestamp"])
        Message._default_manager.create(device=device, timestamp=timestamp, topic=topic, payload=payload.decode())
        for reading in _readings(device.pk, timestamp, message["value"]):
            reading.save(force_insert=True)


def lean_store(secrets: dict[str, str]) -> Callable[[str, bytes], None]:
    """`old_lean`: a function that keeps a message, with the devices and their secrets in memory."""
    devices = {
        str(uuid): (pk, secrets[str(uuid)].encode()) for pk, uuid in Device._default_manager.values_list("pk", "uuid")
    }

    def keep(topic: str, payload: bytes) -> None:
        device_id, secret = devices[topic.split("/")[2]]
        message = opened(payload, secret)
        timestamp = datetime.fromisoformat(message["timestamp"])
        with transaction.atomic():
            Message._default_manager.create(
                device_id=device_id, timestamp=timestamp, topic=topic, payload=payload.decode()
            )
            Reading._default_manager.bulk_create(_readings(device_id, timestamp, message["value"]))

    return keep


def _readings(device_id: int, timestamp: datetime, value: dict[str, Any]) -> list[Reading]:
    return [
        Reading(device_id=device_id, timestamp=timestamp, metric=metric, value=value[key], unit=unit)
        for key, (metric, unit) in UNITS.items()
        if key in value
    ]
