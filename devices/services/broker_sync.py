"""Brings the broker's device accounts in step with what is registered, after either was away."""

import logging
from dataclasses import dataclass
from uuid import UUID

from django_tenants.utils import schema_context

from devices.models import Device
from devices.services import broker_access
from devices.services.secrets import SecretMissing, provisioner
from tenants.models import Tenant

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """How many accounts were made and removed, and how many devices have no secret in Vault."""

    granted: int
    revoked: int
    without_secret: int


def sync_broker() -> Changes:
    """Make the accounts that devices lack, and remove those of devices that are gone."""
    if not broker_access.is_managed():
        return Changes(0, 0, 0)
    present = {uuid for name in broker_access.accounts() if (uuid := _as_uuid(name))}
    registered = _registered()
    lacking = [(schema, uuid) for uuid, schema in registered.items() if uuid not in present]
    accounts, without_secret = [], 0
    for schema, uuid in lacking:
        try:
            accounts.append((uuid, provisioner().read(schema, uuid).mqtt_password))
        except SecretMissing:
            without_secret += 1
            logger.error("Device %s of %s has no secret in Vault: issue it a new key", uuid, schema)
    broker_access.grant_devices(accounts)
    gone = present - registered.keys()
    broker_access.revoke_devices(gone)
    return Changes(len(accounts), len(gone), without_secret)


def _registered() -> dict[UUID, str]:
    """Every tenant's devices with their schemas."""
    registered: dict[UUID, str] = {}
    with schema_context("public"):
        schemas = list(Tenant.objects.filter(state=Tenant.State.ACTIVE).values_list("schema_name", flat=True))
    for schema in schemas:
        with schema_context(schema):
            registered |= dict.fromkeys(Device.objects.values_list("uuid", flat=True), schema)
    return registered


def _as_uuid(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None
