"""Authentication of logins for a broker with HTTP authentication (EMQX): batches, by the present state of PostgreSQL.

The result is the same for a wrong password, an unknown name, a deactivated device and a suspended tenant.
Nothing is cached between batches, so a revocation takes effect with its commit.
"""

import hashlib
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import DatabaseError, connection
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import ApiKey, BrokerPassword
from devices.models.access import API_KEY_PREFIX
from devices.services.broker.topic_rules import Role
from tenants.models import AppRoute, DeviceRoute, RouteCandidate, Tenant

from . import admission, passwords

logger = logging.getLogger(__name__)

# One tenant's tables may be locked by a migration: the devices of other tenants must not wait for it.
_LIMITS = "SET lock_timeout = '100ms'; SET statement_timeout = '1s'"


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """The credentials of a connecting client, and its address."""

    client_id: str
    name: str
    password: str = field(repr=False)
    address: str = ""


@dataclass(frozen=True, slots=True)
class AuthResult:
    """Whether a client is admitted, until when at most, and the attributes for its topic rules."""

    allowed: bool
    attributes: dict[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None


DENIED = AuthResult(False)


class AuthUnavailable(Exception):
    """A login could not be authenticated, because the database did not respond."""


def authenticate(logins: Sequence[LoginAttempt]) -> list[AuthResult | AuthUnavailable]:
    """Return a result for each login, in order; AuthUnavailable for logins of a tenant whose tables do not respond.

    Raises DatabaseError if none can be authenticated. Leaves the connection in the public schema.
    """
    plausible = {login.name for login in logins if _is_plausible(login)}
    with schema_context("public"):
        _set_limits()
        owned = _owners(plausible)
    known: dict[str, _Account | AuthUnavailable] = {}
    for tenant, names in owned:
        known |= _accounts(tenant, names)
    return [_result(login, known) if login.name in plausible else DENIED for login in logins]


@dataclass(frozen=True, slots=True)
class _Account:
    """An account that may connect, and the hash of its password (no salt: plain SHA-256)."""

    digest: bytes
    attributes: dict[str, str]
    salt: bytes | None = None
    rounds: int = 0
    expires_at: datetime | None = None


def _result(login: LoginAttempt, known: dict[str, "_Account | AuthUnavailable"]) -> AuthResult | AuthUnavailable:
    # The client id must equal the name: a client with another's id would take over its session.
    account = known.get(login.name) if login.client_id == login.name else None
    if account is None or isinstance(account, AuthUnavailable):
        return account or DENIED
    if not _password_fits(account, login.password):
        return DENIED
    return AuthResult(True, account.attributes, account.expires_at)


def _password_fits(account: _Account, password: str) -> bool:
    if account.salt is not None:
        return passwords.matches(account.salt, account.digest, password, account.rounds)
    digest = hashlib.sha256(password.encode("utf-8", "surrogatepass")).hexdigest()
    return secrets.compare_digest(account.digest, digest.encode())


def _is_plausible(login: LoginAttempt) -> bool:
    return login.client_id == login.name and (_is_uuid(login.name) or login.name.startswith(API_KEY_PREFIX))


def _is_uuid(name: str) -> bool:
    """Return whether it is a UUID in the canonical form of the topics."""
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _set_limits() -> None:
    """Set the limits once for each new connection."""
    if connection.connection is None:
        with connection.cursor() as cursor:
            cursor.execute(_LIMITS)


def _owners(names: Iterable[str]) -> list[tuple[Tenant, list[str]]]:
    """Return the active tenants that own names, each with its names."""
    devices = [name for name in names if not name.startswith(API_KEY_PREFIX)]
    apps = [name for name in names if name.startswith(API_KEY_PREFIX)]
    routes = [
        (str(uuid), tenant)
        for uuid, tenant in DeviceRoute.objects.filter(device_uuid__in=devices).values_list("device_uuid", "tenant")
    ]
    routes += _first_candidates([name for name in devices if name not in dict(routes)])
    if apps:
        routes += AppRoute.objects.filter(prefix__in=apps).values_list("prefix", "tenant")
    names_of: dict[int, list[str]] = {}
    for name, tenant_id in routes:
        names_of.setdefault(tenant_id, []).append(name)
    tenants = Tenant.objects.filter(pk__in=names_of, state=Tenant.State.ACTIVE)
    return [(tenant, names_of[tenant.pk]) for tenant in tenants]


def _first_candidates(devices: list[str]) -> list[tuple[str, int]]:
    """Return the tenants that registered unproven UUIDs first: their devices may connect, to prove them."""
    if not devices:
        return []
    rows = RouteCandidate.objects.filter(device_uuid__in=devices).order_by("-id").values_list("device_uuid", "tenant")
    return list({str(uuid): tenant for uuid, tenant in rows}.items())


def _accounts(tenant: Tenant, names: list[str]) -> dict[str, "_Account | AuthUnavailable"]:
    """Return the accounts by name, of the names that may connect; AuthUnavailable where the tables do not respond."""
    try:
        with schema_context(tenant.schema_name):
            devices = [name for name in names if not name.startswith(API_KEY_PREFIX)]
            apps = [name for name in names if name.startswith(API_KEY_PREFIX)]
            found = _devices(devices) if devices else {}
            return found | (_apps(tenant.slug, apps) if apps else {})
    except DatabaseError as error:
        if connection.connection is None or connection.connection.closed:
            raise
        logger.warning("The tables of %s cannot authenticate logins: %s", tenant.slug, error)
        return dict.fromkeys(names, AuthUnavailable(str(error)))


def _devices(names: list[str]) -> dict[str, "_Account | AuthUnavailable"]:
    rows = BrokerPassword.objects.filter(device__uuid__in=names, device__in=admission.admissible())
    return {
        str(uuid): _Account(bytes(digest), {"role": str(Role.DEVICE), "name": str(uuid)}, bytes(salt), rounds)
        for uuid, salt, digest, rounds in rows.values_list("device__uuid", "salt", "digest", "rounds")
    }


def _apps(slug: str, names: list[str]) -> dict[str, "_Account | AuthUnavailable"]:
    keys = ApiKey.of_apps().filter(prefix__in=names)
    now = timezone.now()
    return {
        key.prefix: _Account(key.digest.encode(), {"role": str(Role.APP), "slug": slug}, expires_at=key.expires_at)
        for key in keys
        if key.expires_at is None or key.expires_at > now
    }
