"""API keys: issuing and checking. A key is a broker account too: its prefix and its text.

If the broker has accounts (Mosquitto), the account is created when the key is issued and at no other time, since the
text is not stored. If the broker was unavailable then, the key is valid for the API only.
"""

import datetime
import logging
import secrets
from collections.abc import Sequence

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from devices.domain.selector import Selector
from devices.models import ApiKey
from devices.models.access import API_KEY_PREFIX, API_KEY_PREFIX_LENGTH
from devices.services.broker import accounts
from devices.services.notifications.stream_hub import end_streams
from tenants.infrastructure import tasks
from tenants.infrastructure.access_cache import AccessCache
from tenants.infrastructure.database import current_schema
from tenants.models import AppRoute, Tenant

from . import audit, audit_changes

logger = logging.getLogger(__name__)

# By schema and digest: a key of one tenant is not found in another.
_found_keys: AccessCache[tuple[str, str], ApiKey] = AccessCache()
ALL_DEVICES = Selector()
# How long a rotated key stays valid, unless stated.
OVERLAP = datetime.timedelta(days=7)
_EXPIRY = "devices.services.api_keys.close_expired"


def issue_api_key(
    *,
    name: str,
    scope: str = ApiKey.Scope.READ,
    scopes: Sequence[str] = (),
    description: str = "",
    addresses: Sequence[str] = (),
    expires_at: datetime.datetime | None = None,
    selector: Selector = ALL_DEVICES,
    acting_user: audit.Actor = None,
) -> tuple[ApiKey, str]:
    """Issue a key of the current tenant. Return it with its text, which is shown once and not stored.

    `scopes` are those of the scope `custom`. A key with a device selector or a list of addresses gets no account at the
    broker, whose topics are those of all devices, and which knows no addresses.
    """
    text = f"{API_KEY_PREFIX}{secrets.token_hex(5)}{secrets.token_urlsafe(32)}"
    with transaction.atomic():
        key = ApiKey.objects.create(
            name=name,
            prefix=text[:API_KEY_PREFIX_LENGTH],
            digest=ApiKey.digest_of(text),
            description=description,
            scope=scope,
            scopes=sorted(set(scopes)),
            addresses=list(addresses),
            expires_at=expires_at,
            selector=selector.stored(),
            created_by_id=audit.named(acting_user).user_id,
            created_by_label=audit.label(acting_user)[:150],
        )
        audit.record(acting_user, "issue", key, changes=audit_changes.added(key))
        if not selector and not addresses:
            tenant = Tenant.objects.get(schema_name=current_schema())
            AppRoute.objects.create(prefix=key.prefix, tenant=tenant)
            transaction.on_commit(lambda: _grant(tenant.slug, key.prefix, text))
        if expires_at is not None:
            tasks.schedule(expires_at, _EXPIRY, key.pk)
    return key, text


def rotate_api_key(key: ApiKey, *, overlap: datetime.timedelta, acting_user: audit.Actor = None) -> tuple[ApiKey, str]:
    """Issue the successor of a key, with the same rights; the key itself ends after `overlap`, or at its earlier end.

    Return the successor and its text. Raises ValidationError for a key that is not valid, or has a successor.
    """
    with transaction.atomic():
        old = ApiKey.objects.select_for_update().get(pk=key.pk)
        if not old.is_valid() or old.successor_id is not None:
            raise ValidationError(_("Only a valid key without a successor can be rotated."))
        life = old.expires_at - old.created_at if old.expires_at else None
        new, text = issue_api_key(
            name=old.name,
            scope=old.scope,
            scopes=old.scopes,
            description=old.description,
            addresses=old.addresses,
            expires_at=timezone.now() + life if life else None,
            selector=Selector.from_stored(old.selector),
            acting_user=acting_user,
        )
        end = timezone.now() + overlap
        old.expires_at = end if old.expires_at is None else min(old.expires_at, end)
        old.successor = new
        old.save(update_fields=["expires_at", "successor"])
        audit.record(acting_user, "rotate API key", old, new.prefix)
        end_streams(current_schema(), key_id=old.pk)
        tasks.schedule(old.expires_at, _EXPIRY, old.pk)
        transaction.on_commit(lambda: _forget(old.prefix))
    return new, text


def default_end() -> datetime.datetime | None:
    """Return the end of a key that is issued now without one, by `API_KEY_DEFAULT_DAYS`; None: it does not end."""
    days = settings.API_KEY_DEFAULT_DAYS
    return timezone.now() + datetime.timedelta(days=days) if days else None


def revoke_api_key(key: ApiKey, *, acting_user: audit.Actor = None) -> bool:
    """Revoke a key now, and close its connections at the broker. Return False if it was already revoked."""
    with transaction.atomic():
        won = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now())
        if won:
            AppRoute.objects.filter(prefix=key.prefix).delete()
            audit.record(acting_user, "revoke", key)
            end_streams(current_schema(), key_id=key.pk)
            transaction.on_commit(lambda: _forget(key.prefix))
            transaction.on_commit(lambda: _revoke(key.prefix))
    return bool(won)


def find_api_key(text: str) -> ApiKey | None:
    """Return the current tenant's valid key with that text; one that another process revoked for a second longer."""
    key = _found_keys.get((current_schema(), ApiKey.digest_of(text)), lambda: ApiKey.find(text))
    return key if key is not None and key.is_valid() else None


def close_expired(pk: int) -> str:
    """Close the connections of an expired key at the broker, in a worker. Raises BrokerUnavailable."""
    key = ApiKey.objects.filter(pk=pk).first()
    if key is None or key.is_valid():
        return "It has not expired"
    end_streams(current_schema(), key_id=key.pk)
    accounts.revoke_apps([key.prefix])
    return "Closed"


def _forget(prefix: str) -> None:
    """Reject the key at once in this process."""
    _found_keys.forget(lambda _key, row: row.prefix == prefix)


def _grant(slug: str, prefix: str, text: str) -> None:
    try:
        accounts.grant_app(slug, prefix, text)
    except accounts.BrokerUnavailable as error:
        logger.warning("The API key %s… has no account at the broker (%s); it serves the API only", prefix, error)


def _revoke(prefix: str) -> None:
    try:
        accounts.revoke_apps([prefix])
    except accounts.BrokerUnavailable as error:
        logger.warning("The broker still has the revoked API key %s… (%s); sync_broker removes it", prefix, error)
