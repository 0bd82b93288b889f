"""Service keys: issuing, finding and revoking them."""

import datetime
import secrets
from collections.abc import Sequence

from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.models import Model
from django.utils import timezone

from tenants.models import ServiceKey, User
from tenants.models.service_keys import SERVICE_KEY_PREFIX, SERVICE_KEY_PREFIX_LENGTH

# `last_used_at` is informative: once a minute saves a write for each request.
_TOUCH_AFTER = datetime.timedelta(minutes=1)


def issue_service_key(
    *, name: str, scopes: Sequence[str], expires_at: datetime.datetime | None = None, acting_user: User
) -> tuple[ServiceKey, str]:
    """Issue a key; return it with its text, which is shown once and not stored."""
    text = f"{SERVICE_KEY_PREFIX}{secrets.token_hex(5)}{secrets.token_urlsafe(32)}"
    with transaction.atomic():
        key = ServiceKey.objects.create(
            name=name,
            prefix=text[:SERVICE_KEY_PREFIX_LENGTH],
            digest=ServiceKey.digest_of(text),
            scopes=sorted(set(scopes)),
            expires_at=expires_at,
            issued_by=acting_user,
        )
        log_staff_change(acting_user, key, f"Issued with {', '.join(key.scopes)}.", ADDITION)
    return key, text


def revoke_service_key(key: ServiceKey, *, acting_user: User) -> bool:
    """Revoke a key now. Return False if it was already revoked."""
    with transaction.atomic():
        won = ServiceKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now())
        if won:
            log_staff_change(acting_user, key, "Revoked.", DELETION)
    return bool(won)


def find_service_key(text: str) -> ServiceKey | None:
    """Return the valid key with that text, and note that it was used; None without one."""
    keys = ServiceKey.objects.select_related("issued_by")
    key = keys.filter(prefix=text[:SERVICE_KEY_PREFIX_LENGTH]).first()
    if key is None or not secrets.compare_digest(key.digest, ServiceKey.digest_of(text)) or not key.is_valid():
        return None
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > _TOUCH_AFTER:
        ServiceKey.objects.filter(pk=key.pk).update(last_used_at=now)
    return key


def log_staff_change(user: User, obj: Model, message: str, flag: int) -> None:
    """Write an entry of Django's log, as the console does."""
    LogEntry.objects.create(
        user_id=user.pk,
        content_type=ContentType.objects.get_for_model(obj),
        object_id=str(obj.pk),
        object_repr=str(obj)[:200],
        action_flag=flag,
        change_message=message,
    )
