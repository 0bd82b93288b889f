"""Synchronization of the broker with the registered devices and API keys, after either was unavailable."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django_tenants.utils import schema_context

from devices.models import ApiKey, Device
from devices.models.access import API_KEY_PREFIX
from devices.services.vault.secret_store import SecretMissing, provisioner
from tenants.infrastructure.chunks import chunks
from tenants.models import AppRoute, Tenant

from . import accounts, passwords, retained_states

logger = logging.getLogger(__name__)


_PROVISIONED = (Tenant.State.ACTIVE, Tenant.State.SUSPENDED)
# Secrets are read in small batches, so that an interruption loses little work.
_BATCH = 200


@dataclass(frozen=True, slots=True)
class SyncResult:
    """Counts of a synchronization: device accounts created and removed, devices without a secret in Vault, app accounts
    changed, device accounts enabled or disabled, passwords hashed, retained states cleared, EMQX sessions closed.
    """

    granted: int
    revoked: int
    without_secret: int
    apps: int = 0
    switched: int = 0
    passwords: int = 0
    states: int = 0
    closed: int = 0


@dataclass(frozen=True, slots=True)
class _RegisteredDevice:
    """A registered device: its schema, and whether it is admitted."""

    schema: str
    allowed: bool


def sync_broker(*, states: bool = False) -> SyncResult:
    """Create missing accounts of devices, remove those of removed devices and API keys, and repair other differences.

    The account of an API key cannot be created here: its text was shown once and is not stored. With `states`, retained
    states of removed devices are cleared too.
    """
    hashed, unknown = _complete_passwords()
    _complete_app_routes()
    cleared = _clear_orphaned_states() if states else 0
    closed = _close_sessions()
    if not accounts.is_managed():
        return SyncResult(0, 0, unknown, passwords=hashed, states=cleared, closed=closed)
    names = accounts.accounts()
    apps = _sync_apps({name: state for name, state in names.items() if name.startswith(API_KEY_PREFIX)})
    present = {uuid: allowed for name, allowed in names.items() if (uuid := _as_uuid(name))}
    registered = _registered()
    granted, without_secret = _grant([pair for pair in registered.items() if pair[0] not in present])
    gone = present.keys() - registered.keys()
    accounts.revoke_devices(gone)
    switched = _switch(present, registered)
    return SyncResult(granted, len(gone), without_secret, apps, switched, hashed, cleared, closed)


def _close_sessions() -> int:
    """Close the sessions of devices and apps at EMQX that would not be admitted now."""
    names = {name for name in accounts.sessions() if _as_uuid(name) or name.startswith(API_KEY_PREFIX)}
    if not names:
        return 0
    allowed = {str(uuid) for uuid, owned in _registered().items() if owned.allowed}
    allowed |= {prefix for prefix, state in _valid_keys().items() if state == Tenant.State.ACTIVE}
    accounts.ban(names - allowed)
    return len(names - allowed)


def _grant(lacking: Sequence[tuple[UUID, _RegisteredDevice]]) -> tuple[int, int]:
    """Create the accounts of admitted devices. Return how many, and how many have no secret."""
    wanted = [(uuid, owned.schema) for uuid, owned in lacking if owned.allowed]
    granted = 0
    for chunk in chunks(wanted, _BATCH):
        found = [(uuid, password) for (uuid, schema) in chunk if (password := _password(schema, uuid))]
        accounts.grant_devices(found, renew=False)
        granted += len(found)
    return granted, len(wanted) - granted


def _switch(present: dict[UUID, bool], registered: dict[UUID, _RegisteredDevice]) -> int:
    """Enable and disable accounts that are not as they should be. Return how many."""
    switched = 0
    for allowed in (True, False):
        wrong = [u for u, owned in registered.items() if owned.allowed is allowed and present.get(u) is (not allowed)]
        accounts.allow_devices(wrong, allowed)
        switched += len(wrong)
    return switched


def _sync_apps(present: dict[str, bool]) -> int:
    """Remove the accounts of keys that are revoked, expired or removed; disable those of suspended tenants.

    Return how many accounts were changed.
    """
    valid = {prefix: state for prefix, state in _valid_keys().items() if prefix in present}
    gone = present.keys() - valid.keys()
    accounts.revoke_apps(gone)
    changed = len(gone)
    for allowed in (True, False):
        wrong = [
            prefix
            for prefix, state in valid.items()
            if (state == Tenant.State.ACTIVE) is allowed and present[prefix] is not allowed
        ]
        accounts.allow_apps(wrong, allowed)
        changed += len(wrong)
    return changed


def _valid_keys() -> dict[str, str]:
    """Return the prefixes of every tenant's valid keys, with the tenant's state."""
    valid: dict[str, str] = {}
    for tenant in _tenants():
        with schema_context(tenant.schema_name):
            rows = ApiKey.objects.filter(revoked_at=None)
            valid |= {key.prefix: tenant.state for key in rows if key.is_valid()}
    return valid


def _registered() -> dict[UUID, _RegisteredDevice]:
    """Return every tenant's devices."""
    registered: dict[UUID, _RegisteredDevice] = {}
    for tenant in _tenants():
        open_to_devices = tenant.state == Tenant.State.ACTIVE
        with schema_context(tenant.schema_name):
            rows = Device.objects.values_list("uuid", "active")
            registered |= {
                uuid: _RegisteredDevice(tenant.schema_name, active and open_to_devices) for uuid, active in rows
            }
    return registered


def _complete_passwords() -> tuple[int, int]:
    """Store missing hashes of passwords, after an upgrade or a restore.

    Return for how many devices, and how many have no secret in Vault.
    """
    made = unknown = 0
    for tenant in _tenants():
        with schema_context(tenant.schema_name):
            for chunk in chunks(passwords.devices_without_hash(), _BATCH):
                known = {pk: password for pk, uuid in chunk if (password := _password(tenant.schema_name, uuid))}
                passwords.store_hashes(known)
                made += len(known)
                unknown += len(chunk) - len(known)
    return made, unknown


def _complete_app_routes() -> None:
    """Store the missing tenants of API keys, after an upgrade or a restore of one tenant."""
    for tenant in _tenants():
        with schema_context(tenant.schema_name):
            prefixes = list(ApiKey.objects.filter(revoked_at=None).values_list("prefix", flat=True))
        with schema_context("public"):
            rows = [AppRoute(prefix=prefix, tenant=tenant) for prefix in prefixes]
            AppRoute.objects.bulk_create(rows, ignore_conflicts=True)


def _clear_orphaned_states() -> int:
    kept = retained_states.list_retained()
    registered: set[tuple[str, UUID]] = set()
    for tenant in _tenants():
        with schema_context(tenant.schema_name):
            registered |= {(tenant.slug, uuid) for uuid in Device.objects.values_list("uuid", flat=True)}
    retained_states.clear_retained(kept - registered)
    return len(kept - registered)


def _tenants() -> list[Tenant]:
    with schema_context("public"):
        return list(Tenant.objects.filter(state__in=_PROVISIONED))


def _password(schema: str, uuid: UUID) -> str:
    """Return the device's broker password; empty if Vault has none."""
    try:
        return provisioner().read(schema, uuid).mqtt_password
    except SecretMissing:
        logger.error("Device %s of %s has no secret in Vault: issue a new key", uuid, schema)
        return ""


def _as_uuid(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None
