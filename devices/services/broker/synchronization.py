"""Brings the broker in step with the registered devices and the API keys, after either was away."""

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

from . import accounts as broker_access
from . import passwords as broker_passwords
from . import retained_states

logger = logging.getLogger(__name__)


_COMPLETE = (Tenant.State.ACTIVE, Tenant.State.SUSPENDED)
# Secrets that are read before anything is done with them: little is lost when this ends half-way.
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Changes:
    """How many accounts were made and removed, and how many devices have no secret in Vault; how many accounts of
    apps were removed, kept out or let in again, and how many of devices were kept out or let in; how many passwords
    can be checked now that could not before; how many states of devices that are gone were removed; how many
    sessions of EMQX were closed."""

    granted: int
    revoked: int
    without_secret: int
    apps: int = 0
    switched: int = 0
    passwords: int = 0
    states: int = 0
    closed: int = 0


@dataclass(frozen=True, slots=True)
class _Owned:
    """A registered device: in which schema, and whether it is let in."""

    schema: str
    allowed: bool


def sync_broker(*, states: bool = False) -> Changes:
    """Make the accounts that devices lack, remove those of devices and API keys that are gone, and what else is amiss.

    The account of an API key cannot be made here: what the key is was shown once and is kept nowhere. With `states`
    the broker is asked for the retained states of all devices, too.
    """
    passwords, unknown = _complete_passwords()
    _complete_app_routes()
    forgotten = _forget_states_of_the_gone() if states else 0
    closed = _close_sessions()
    if not broker_access.is_managed():
        return Changes(0, 0, unknown, passwords=passwords, states=forgotten, closed=closed)
    names = broker_access.accounts()
    apps = _sync_apps({name: state for name, state in names.items() if name.startswith(API_KEY_PREFIX)})
    present = {uuid: allowed for name, allowed in names.items() if (uuid := _as_uuid(name))}
    registered = _registered()
    granted, without_secret = _grant([pair for pair in registered.items() if pair[0] not in present])
    gone = present.keys() - registered.keys()
    broker_access.revoke_devices(gone)
    switched = _switch(present, registered)
    return Changes(granted, len(gone), without_secret, apps, switched, passwords, forgotten, closed)


def _close_sessions() -> int:
    """At EMQX, close the sessions of devices and apps that would not be let in now."""
    names = {name for name in broker_access.sessions() if _as_uuid(name) or name.startswith(API_KEY_PREFIX)}
    if not names:
        return 0
    allowed = {str(uuid) for uuid, owned in _registered().items() if owned.allowed}
    allowed |= {prefix for prefix, state in _valid_keys().items() if state == Tenant.State.ACTIVE}
    broker_access.shut_out(names - allowed)
    return len(names - allowed)


def _grant(lacking: Sequence[tuple[UUID, _Owned]]) -> tuple[int, int]:
    """Make the accounts of those that are let in; how many, and how many have no secret."""
    wanted = [(uuid, owned.schema) for uuid, owned in lacking if owned.allowed]
    granted = 0
    for chunk in chunks(wanted, _AT_ONCE):
        accounts = [(uuid, password) for (uuid, schema) in chunk if (password := _password(schema, uuid))]
        broker_access.grant_devices(accounts, renew=False)
        granted += len(accounts)
    return granted, len(wanted) - granted


def _switch(present: dict[UUID, bool], registered: dict[UUID, _Owned]) -> int:
    """Let in and keep out those that are not so already."""
    switched = 0
    for allowed in (True, False):
        wrong = [u for u, owned in registered.items() if owned.allowed is allowed and present.get(u) is (not allowed)]
        broker_access.allow_devices(wrong, allowed)
        switched += len(wrong)
    return switched


def _sync_apps(present: dict[str, bool]) -> int:
    """Remove the accounts of keys that are revoked, expired or gone; those of suspended tenants wait outside.

    Returns how many accounts were changed.
    """
    valid = {prefix: state for prefix, state in _valid_keys().items() if prefix in present}
    gone = present.keys() - valid.keys()
    broker_access.revoke_apps(gone)
    changed = len(gone)
    for allowed in (True, False):
        wrong = [
            prefix
            for prefix, state in valid.items()
            if (state == Tenant.State.ACTIVE) is allowed and present[prefix] is not allowed
        ]
        broker_access.allow_apps(wrong, allowed)
        changed += len(wrong)
    return changed


def _valid_keys() -> dict[str, str]:
    """The first characters of every tenant's valid keys, with the tenant's state."""
    valid: dict[str, str] = {}
    for tenant in _tenants():
        with schema_context(tenant.schema_name):
            rows = ApiKey.objects.filter(revoked_at=None)
            valid |= {key.prefix: tenant.state for key in rows if key.is_valid()}
    return valid


def _registered() -> dict[UUID, _Owned]:
    """Every tenant's devices."""
    registered: dict[UUID, _Owned] = {}
    for tenant in _tenants():
        open_to_devices = tenant.state == Tenant.State.ACTIVE
        with schema_context(tenant.schema_name):
            rows = Device.objects.values_list("uuid", "active")
            registered |= {uuid: _Owned(tenant.schema_name, active and open_to_devices) for uuid, active in rows}
    return registered


def _complete_passwords() -> tuple[int, int]:
    """Make what passwords are checked with where it is missing: after an upgrade, or a restore.

    Returns for how many devices, and how many have no secret in Vault.
    """
    made = unknown = 0
    for tenant in _tenants():
        with schema_context(tenant.schema_name):
            for chunk in chunks(broker_passwords.without(), _AT_ONCE):
                known = {pk: password for pk, uuid in chunk if (password := _password(tenant.schema_name, uuid))}
                broker_passwords.keep(known)
                made += len(known)
                unknown += len(chunk) - len(known)
    return made, unknown


def _complete_app_routes() -> None:
    """Whose each API key is, where that is missing: after an upgrade, or a restore of one tenant."""
    for tenant in _tenants():
        with schema_context(tenant.schema_name):
            prefixes = list(ApiKey.objects.filter(revoked_at=None).values_list("prefix", flat=True))
        with schema_context("public"):
            rows = [AppRoute(prefix=prefix, tenant=tenant) for prefix in prefixes]
            AppRoute.objects.bulk_create(rows, ignore_conflicts=True)


def _forget_states_of_the_gone() -> int:
    kept = retained_states.kept_states()
    registered: set[tuple[str, UUID]] = set()
    for tenant in _tenants():
        with schema_context(tenant.schema_name):
            registered |= {(tenant.slug, uuid) for uuid in Device.objects.values_list("uuid", flat=True)}
    retained_states.forget_states(kept - registered)
    return len(kept - registered)


def _tenants() -> list[Tenant]:
    with schema_context("public"):
        return list(Tenant.objects.filter(state__in=_COMPLETE))


def _password(schema: str, uuid: UUID) -> str:
    """The device's password at the broker; empty where Vault has none."""
    try:
        return provisioner().read(schema, uuid).mqtt_password
    except SecretMissing:
        logger.error("Device %s of %s has no secret in Vault: issue it a new key", uuid, schema)
        return ""


def _as_uuid(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None
