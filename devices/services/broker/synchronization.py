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
from tenants.infrastructure.database import current_schema
from tenants.models import AppRoute, DeviceRoute, RouteCandidate, Tenant
from tenants.services.tenant_rounds import visit_each

from . import account_ownership, accounts, admission, passwords, retained_states

logger = logging.getLogger(__name__)


_PROVISIONED = (Tenant.State.ACTIVE, Tenant.State.SUSPENDED)
# Secrets are read in small batches, so that an interruption loses little work.
_BATCH = 200
# The name of this work where it fails for a tenant.
_WORK = "broker"


@dataclass(frozen=True, slots=True)
class SyncResult:
    """Counts of a synchronization: device accounts created and removed, devices without a secret in Vault, app accounts
    changed, device accounts enabled or disabled, passwords hashed, retained states cleared, EMQX sessions closed, other
    retained messages cleared.
    """

    granted: int
    revoked: int
    without_secret: int
    apps: int = 0
    switched: int = 0
    passwords: int = 0
    states: int = 0
    closed: int = 0
    strays: int = 0


@dataclass(frozen=True, slots=True)
class _RegisteredDevice:
    """A registered device: its schema, and whether it is admitted."""

    schema: str
    allowed: bool


@dataclass(frozen=True, slots=True)
class _Registered:
    """The registered devices. `unreadable` are those of tenants that are locked or faulty: they stay as they are."""

    devices: dict[UUID, _RegisteredDevice]
    unreadable: set[UUID]


@dataclass(frozen=True, slots=True)
class _ValidKeys:
    """The prefixes of valid keys with their tenants' states; `unreadable` as in `_Registered`."""

    states: dict[str, str]
    unreadable: set[str]


def sync_broker(*, states: bool = False) -> SyncResult:
    """Create missing accounts of devices, remove those of removed devices and API keys, and repair other differences.

    The account of an API key cannot be created here: its text was shown once and is not stored. With `states`, retained
    states of removed devices are cleared too, and retained telemetry.
    """
    hashed, unknown = _complete_passwords()
    _complete_app_routes()
    cleared = _clear_orphaned_states() if states else 0
    strays = retained_states.clear_strays(telemetry=states)
    closed = _close_sessions()
    if not accounts.is_managed():
        return SyncResult(0, 0, unknown, passwords=hashed, states=cleared, closed=closed, strays=strays)
    names = accounts.accounts()
    apps = _sync_apps({name: state for name, state in names.items() if name.startswith(API_KEY_PREFIX)})
    present = {uuid: allowed for name, allowed in names.items() if (uuid := _as_uuid(name))}
    registered = _registered()
    present = {uuid: allowed for uuid, allowed in present.items() if uuid not in registered.unreadable}
    granted, without_secret = _grant([pair for pair in registered.devices.items() if pair[0] not in present])
    gone = present.keys() - registered.devices.keys()
    accounts.revoke_devices(gone)
    _hand_over_disputed(registered.devices)
    switched = _switch(present, registered.devices)
    return SyncResult(granted, len(gone), without_secret, apps, switched, hashed, cleared, closed, strays)


def _close_sessions() -> int:
    """Close the sessions of devices and apps at EMQX that would not be admitted now."""
    names = {name for name in accounts.sessions() if _as_uuid(name) or name.startswith(API_KEY_PREFIX)}
    if not names:
        return 0
    registered, keys = _registered(), _valid_keys()
    allowed = {str(uuid) for uuid, owned in registered.devices.items() if owned.allowed}
    allowed |= {str(uuid) for uuid in registered.unreadable}
    allowed |= {prefix for prefix, state in keys.states.items() if state == Tenant.State.ACTIVE} | keys.unreadable
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


def _hand_over_disputed(registered: dict[UUID, _RegisteredDevice]) -> None:
    """Give the accounts of disputed UUIDs to their owners: another tenant registered them first and got the account."""
    with schema_context("public"):
        disputed = RouteCandidate.objects.values_list("device_uuid", flat=True)
        routes = DeviceRoute.objects.filter(device_uuid__in=disputed).values_list("device_uuid", flat=True)
        owned = [(uuid, registered[uuid].schema) for uuid in routes if uuid in registered]
    for uuid, schema in owned:
        if password := _password(schema, uuid):
            accounts.grant_devices([(uuid, password)])


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
    keys = _valid_keys()
    present = {prefix: state for prefix, state in present.items() if prefix not in keys.unreadable}
    valid = {prefix: state for prefix, state in keys.states.items() if prefix in present}
    gone = present.keys() - valid.keys()
    accounts.revoke_apps(gone)
    return len(gone) + _switch_apps(present, valid)


def _switch_apps(present: dict[str, bool], valid: dict[str, str]) -> int:
    """Enable and disable present accounts of apps by their tenant's state. Return how many."""
    changed = 0
    for allowed in (True, False):
        wrong = [
            prefix
            for prefix, state in valid.items()
            if (state == Tenant.State.ACTIVE) is allowed and present.get(prefix) is (not allowed)
        ]
        accounts.allow_apps(wrong, allowed)
        changed += len(wrong)
    return changed


def sync_tenant() -> int:
    """Enable or disable the accounts of the current tenant's devices and apps by its state, and close their sessions.

    Return how many were changed. Called when a tenant was suspended or resumed. Raises BrokerUnavailable.
    """
    tenant = Tenant.objects.get(schema_name=current_schema())
    is_open = tenant.state == Tenant.State.ACTIVE
    devices = {uuid: _RegisteredDevice(tenant.schema_name, ok and is_open) for uuid, ok in _device_rows()}
    keys = dict.fromkeys(_valid_prefixes(), str(tenant.state))
    names = accounts.accounts()
    present = {uuid: allowed for name, allowed in names.items() if (uuid := _as_uuid(name)) in devices}
    changed = _switch(present, devices) + _switch_apps({n: ok for n, ok in names.items() if n in keys}, keys)
    blocked = {str(uuid) for uuid, owned in devices.items() if not owned.allowed}
    accounts.ban(accounts.sessions() & (blocked if is_open else blocked | keys.keys()))
    return changed


def _valid_prefixes() -> list[str]:
    """Return the prefixes of the current tenant's valid keys that have an account."""
    return [key.prefix for key in ApiKey.of_apps() if key.is_valid()]


def _device_rows() -> list[tuple[UUID, bool]]:
    """Return the current tenant's devices with whether they are admissible."""
    admissible = set(admission.admissible().values_list("pk", flat=True))
    foreign = account_ownership.held_by_others()
    rows = Device.objects.values_list("pk", "uuid")
    return [(uuid, pk in admissible) for pk, uuid in rows if uuid not in foreign]


def _valid_keys() -> _ValidKeys:
    """Return every tenant's valid keys."""
    tenants = {tenant.schema_name: tenant.state for tenant in _tenants()}
    done = visit_each(_WORK, tenants, _valid_prefixes)
    with schema_context("public"):
        routes = AppRoute.objects.filter(tenant__schema_name__in=done.failures)
        unreadable = set(routes.values_list("prefix", flat=True)) if done.failures else set()
    states = {prefix: tenants[schema] for schema, prefixes in done.results.items() for prefix in prefixes}
    return _ValidKeys(states, unreadable)


def _registered() -> _Registered:
    """Return every tenant's devices."""
    tenants = {tenant.schema_name: tenant.state == Tenant.State.ACTIVE for tenant in _tenants()}
    done = visit_each(_WORK, tenants, _device_rows)
    with schema_context("public"):
        routes = DeviceRoute.objects.filter(tenant__schema_name__in=done.failures)
        unreadable = set(routes.values_list("device_uuid", flat=True)) if done.failures else set()
    devices = {
        uuid: _RegisteredDevice(schema, admissible and tenants[schema])
        for schema, rows in done.results.items()
        for uuid, admissible in rows
    }
    return _Registered(devices, unreadable)


def _complete_passwords() -> tuple[int, int]:
    """Store missing hashes of passwords, after an upgrade or a restore.

    Return for how many devices, and how many have no secret in Vault.
    """

    def complete() -> tuple[int, int]:
        made = unknown = 0
        for chunk in chunks(passwords.devices_without_hash(), _BATCH):
            known = {pk: password for pk, uuid in chunk if (password := _password(current_schema(), uuid))}
            passwords.store_hashes(known)
            made += len(known)
            unknown += len(chunk) - len(known)
        return made, unknown

    counts = visit_each(_WORK, [tenant.schema_name for tenant in _tenants()], complete).results.values()
    return sum(made for made, _ in counts), sum(unknown for _, unknown in counts)


def _complete_app_routes() -> None:
    """Store the missing tenants of API keys, after an upgrade or a restore of one tenant."""
    tenants = {tenant.schema_name: tenant for tenant in _tenants()}

    def unrevoked() -> list[str]:
        return list(ApiKey.of_apps().values_list("prefix", flat=True))

    for schema, prefixes in visit_each(_WORK, tenants, unrevoked).results.items():
        with schema_context("public"):
            rows = [AppRoute(prefix=prefix, tenant=tenants[schema]) for prefix in prefixes]
            AppRoute.objects.bulk_create(rows, ignore_conflicts=True)


def _clear_orphaned_states() -> int:
    kept = retained_states.list_retained()
    slugs = {tenant.schema_name: tenant.slug for tenant in _tenants()}
    done = visit_each(_WORK, slugs, lambda: set(Device.objects.values_list("uuid", flat=True)))
    unreadable = {slugs[schema] for schema in done.failures}
    registered = {(slugs[schema], uuid) for schema, uuids in done.results.items() for uuid in uuids}
    orphaned = {(slug, uuid) for slug, uuid in kept - registered if slug not in unreadable}
    retained_states.clear_retained(orphaned)
    return len(orphaned)


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
