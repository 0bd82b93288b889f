"""Brings the broker's accounts in step with the registered devices and the API keys, after either was away."""

import logging
from dataclasses import dataclass
from uuid import UUID

from django_tenants.utils import schema_context

from devices.models import ApiKey, Device
from devices.services import broker_access
from devices.services.api_keys import PREFIX as APP_PREFIX
from devices.services.secrets import SecretMissing, provisioner
from tenants.models import Tenant

logger = logging.getLogger(__name__)

_COMPLETE = (Tenant.State.ACTIVE, Tenant.State.SUSPENDED)


@dataclass(frozen=True, slots=True)
class Changes:
    """How many accounts were made and removed, how many devices have no secret in Vault, and how many accounts of
    apps were removed, kept out or let in again."""

    granted: int
    revoked: int
    without_secret: int
    apps: int = 0


def sync_broker() -> Changes:
    """Make the accounts that devices lack, and remove those of devices and API keys that are gone.

    The account of an API key cannot be made here: what the key is was shown once and is kept nowhere.
    """
    if not broker_access.is_managed():
        return Changes(0, 0, 0)
    names = broker_access.accounts()
    apps = _sync_apps({name for name in names if name.startswith(APP_PREFIX)})
    present = {uuid for name in names if (uuid := _as_uuid(name))}
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
    return Changes(len(accounts), len(gone), without_secret, apps)


def _sync_apps(present: set[str]) -> int:
    """Remove the accounts of keys that are revoked, expired or gone; those of suspended tenants wait outside.

    Returns how many accounts were changed.
    """
    valid = {prefix: state for prefix, state in _valid_keys().items() if prefix in present}
    gone = present - valid.keys()
    broker_access.revoke_apps(gone)
    active = {prefix for prefix, state in valid.items() if state == Tenant.State.ACTIVE}
    let_in = broker_access.allow_apps(active, allowed=True)
    kept_out = broker_access.allow_apps(valid.keys() - active, allowed=False)
    return len(gone) + len(let_in) + len(kept_out)


def _valid_keys() -> dict[str, str]:
    """The first characters of every tenant's valid keys, with the tenant's state."""
    valid: dict[str, str] = {}
    with schema_context("public"):
        tenants = list(Tenant.objects.filter(state__in=_COMPLETE).values_list("schema_name", "state"))
    for schema, state in tenants:
        with schema_context(schema):
            valid |= {key.prefix: state for key in ApiKey.objects.filter(revoked_at=None) if key.is_valid()}
    return valid


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
