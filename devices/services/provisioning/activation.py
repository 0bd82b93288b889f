"""Activation of devices: messages of an inactive device are quarantined, and its silence is not counted."""

import logging
from datetime import UTC, datetime
from uuid import UUID

from django.db import transaction
from redis.exceptions import RedisError

from devices.models import Device
from devices.services import audit
from devices.services.broker import accounts
from devices.services.presence import activity
from devices.services.presence.state_machine import Signal
from devices.services.presence.state_store import apply_signals
from tenants.infrastructure.database import current_schema

logger = logging.getLogger(__name__)


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
        device.active = active
        device.save(update_fields=["active"])
        audit.record(acting_user, "activate" if active else "deactivate", device)
        if not active:
            now = _now()
            apply_signals(schema, [(device.pk, Signal("deactivated", now))], now)
            transaction.on_commit(lambda: activity.drop_deadlines([f"{schema}:{device.uuid}"]))
        transaction.on_commit(lambda: _update_account(device.uuid, active))
    return True


def _update_account(uuid: UUID, active: bool) -> None:
    try:
        accounts.allow_devices([uuid], active)
    except accounts.BrokerUnavailable as error:
        logger.warning(
            "The broker's account of %s is not updated to active=%s (%s); run sync_broker", uuid, active, error
        )


def _now() -> datetime:
    try:
        return datetime.fromtimestamp(activity.redis_now(), UTC)
    except RedisError:
        return datetime.now(UTC)
