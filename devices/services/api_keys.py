"""Issuing and checking API keys."""

import datetime
import hashlib
import secrets

from django.db import transaction
from django.utils import timezone

from devices.models import ApiKey
from devices.services import audit

_PREFIX_LENGTH = len("gwj_") + 10
# last_used_at is for people: once a minute is enough, and spares a write per request.
_TOUCH_AFTER = datetime.timedelta(minutes=1)


def issue_api_key(
    *,
    name: str,
    scope: str = ApiKey.Scope.READ,
    expires_at: datetime.datetime | None = None,
    acting_user: audit.Actor = None,
) -> tuple[ApiKey, str]:
    """A new key of the current tenant and its text, which is shown once and kept nowhere."""
    text = f"gwj_{secrets.token_hex(5)}{secrets.token_urlsafe(32)}"
    with transaction.atomic():
        key = ApiKey.objects.create(
            name=name,
            prefix=text[:_PREFIX_LENGTH],
            digest=_digest(text),
            scope=scope,
            expires_at=expires_at,
            created_by_id=getattr(acting_user, "pk", None),
            created_by_label=str(acting_user or "gwanje")[:150],
        )
        audit.record(acting_user, "issue", key)
    return key, text


def revoke_api_key(key: ApiKey, *, acting_user: audit.Actor = None) -> bool:
    """End a key now. False when it had been revoked already."""
    with transaction.atomic():
        won = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now())
        if won:
            audit.record(acting_user, "revoke", key)
    return bool(won)


def find_api_key(text: str) -> ApiKey | None:
    """The current tenant's valid key with that text, or None."""
    key = ApiKey.objects.filter(prefix=text[:_PREFIX_LENGTH]).first()
    if key is None or not secrets.compare_digest(key.digest, _digest(text)) or not key.is_valid():
        return None
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > _TOUCH_AFTER:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    return key


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
