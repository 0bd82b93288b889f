"""Switching a device off and on again: off, its messages are quarantined and its silence says nothing."""

from datetime import UTC, datetime

from django.db import transaction
from redis.exceptions import RedisError

from devices.models import Device
from devices.services import audit, presence
from devices.services.presence_machine import Signal
from devices.services.presence_store import apply_signals
from tenants.schemas import current_schema


def set_active(device: Device, active: bool, *, acting_user: audit.Actor = None) -> bool:
    """Activate or deactivate a device of the current tenant; False when it was so already.

    Deactivated, its status is UNKNOWN, by staff, until it is active again and speaks.
    """
    schema = current_schema()
    with transaction.atomic():
        locked = Device.objects.select_for_update().get(pk=device.pk)
        if locked.active == active:
            return False
        device.active = active
        device.save(update_fields=["active"])
        audit.record(acting_user, "activate" if active else "deactivate", device)
        if not active:
            now = _now()
            apply_signals(schema, [(device.pk, Signal("deactivated", now))], now)
            transaction.on_commit(lambda: presence.drop_deadlines([f"{schema}:{device.uuid}"]))
    return True


def _now() -> datetime:
    try:
        return datetime.fromtimestamp(presence.redis_now(), UTC)
    except RedisError:
        return datetime.now(UTC)
