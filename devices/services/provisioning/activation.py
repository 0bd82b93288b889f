"""Activation of devices: messages of an inactive device are quarantined, and its silence is not counted."""

from datetime import UTC, datetime

from django.db import transaction
from redis.exceptions import RedisError

from devices.models import Device
from devices.services import audit
from devices.services.broker import admission
from devices.services.presence import activity
from devices.services.presence.state_machine import Signal
from devices.services.presence.state_store import apply_signals
from tenants.infrastructure.database import current_schema


def set_active(device: Device, active: bool, *, acting_user: audit.Actor = None) -> bool:
    """Activate or deactivate a device of the current tenant. Return False if it was so already.

    A deactivated device has the status UNKNOWN, caused by staff, until it is active again and reports. The broker does
    not admit it.
    """
    schema = current_schema()
    with transaction.atomic():
        locked = Device.objects.select_for_update().get(pk=device.pk)
        if locked.active == active:
            return False
        with audit.changing(acting_user, "activate" if active else "deactivate", locked):
            locked.active = device.active = active
            locked.save(update_fields=["active"])
        if not active:
            now = _now()
            apply_signals(schema, [(device.pk, Signal("deactivated", now))], now)
            transaction.on_commit(lambda: activity.drop_deadlines([f"{schema}:{device.uuid}"]))
        update = admission.admit if active else admission.close_sessions
        transaction.on_commit(lambda: update(schema, [device.uuid]))
    return True


def _now() -> datetime:
    try:
        return datetime.fromtimestamp(activity.redis_now(), UTC)
    except RedisError:
        return datetime.now(UTC)
