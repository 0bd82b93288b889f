"""Admission of devices at the broker: a device may connect while its tenant and it are active and it has a valid key.

A device without a valid key can prove nothing: neither its messages nor its will would be accepted.
"""

import logging
from collections.abc import Iterable
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import Device, DeviceCredential
from tenants.models import Tenant

from . import accounts
from .account_ownership import held_by_others

logger = logging.getLogger(__name__)


def valid_keys() -> QuerySet[DeviceCredential]:
    """Return the current tenant's keys that are neither revoked nor ended."""
    return DeviceCredential.objects.filter(Q(not_after=None) | Q(not_after__gt=timezone.now()), revoked_at=None)


def admissible() -> QuerySet[Device]:
    """Return the current tenant's active devices with a valid key. The tenant's own state is not considered."""
    return Device.objects.filter(Exists(valid_keys().filter(device=OuterRef("pk"))), active=True)


def admit(schema: str, uuids: Iterable[UUID]) -> None:
    """Unblock the admissible ones of the devices at the broker. Call it after the commit."""
    _apply(schema, list(uuids), closes=False)


def close_sessions(schema: str, uuids: Iterable[UUID]) -> None:
    """Close the devices' sessions at the broker, and block those that are not admissible. Call it after the commit.

    The others may connect again at once, with what is valid then.
    """
    _apply(schema, list(uuids), closes=True)


def _apply(schema: str, uuids: list[UUID], *, closes: bool) -> None:
    with schema_context(schema):
        foreign = held_by_others()
    uuids = [uuid for uuid in uuids if uuid not in foreign]
    allowed = _allowed(schema, uuids)
    try:
        accounts.allow_devices([uuid for uuid in uuids if uuid not in allowed], False)
        if closes:
            accounts.disconnect(allowed)
        else:
            accounts.allow_devices(allowed, True)
    except accounts.BrokerUnavailable as error:
        # Their messages and wills are rejected in any case.
        logger.warning("The broker's accounts of %d devices are not updated (%s); run sync_broker", len(uuids), error)


def _allowed(schema: str, uuids: list[UUID]) -> set[UUID]:
    with schema_context(schema):
        if not Tenant.objects.filter(schema_name=schema, state=Tenant.State.ACTIVE).exists():
            return set()
        return set(admissible().filter(uuid__in=uuids).values_list("uuid", flat=True))
