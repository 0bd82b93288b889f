"""The sessions of a user: where each is used, and ending one or all."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from django.http import HttpRequest
from django.utils import timezone

from tenants.infrastructure.client_address import address_group
from tenants.models import User, UserSession

from .session_store import ORIGIN, SessionStore
from .sign_in_history import browser_name

# Sessions of one user; a sign-in ends the oldest beyond.
MAX_SESSIONS = 50


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session as its user sees it; `id` identifies it without being its key."""

    id: str
    address: str
    browser: str
    created_at: datetime
    last_used_at: datetime
    is_current: bool


def note_sign_in(request: HttpRequest) -> None:
    """Store address and browser in the session that has just begun."""
    request.session[ORIGIN] = {
        "address": address_group(request.META.get("REMOTE_ADDR", "")),
        "browser": browser_name(request.headers.get("User-Agent", "")),
        "at": timezone.now().isoformat(),
    }


def end_oldest(user: User) -> None:
    """End the user's sessions beyond the newest `MAX_SESSIONS`."""
    rows = UserSession.objects.filter(user=user).order_by("-last_used_at")
    for key in list(rows.values_list("session_key", flat=True)[MAX_SESSIONS:]):
        SessionStore().delete(key)


def sessions_of(user: User, current_key: str | None = None) -> list[ListedSession]:
    """Return the user's sessions that have not expired, the one used last first."""
    return [
        ListedSession(
            _public_id(row.session_key),
            row.address,
            row.browser,
            row.created_at,
            row.last_used_at,
            row.session_key == current_key,
        )
        for row in _valid(user)
    ]


def end_session(user: User, public_id: str) -> bool:
    """End the user's session with this id, and the streams that it has open; return whether there is one."""
    keys = [row.session_key for row in _valid(user) if _public_id(row.session_key) == public_id]
    for key in keys:
        SessionStore().delete(key)
    return bool(keys)


def end_all(user: User, *, except_key: str | None = None) -> int:
    """End the user's sessions, except for one; return how many were ended."""
    keys = [row.session_key for row in UserSession.objects.filter(user=user) if row.session_key != except_key]
    for key in keys:
        SessionStore().delete(key)
    return len(keys)


def _valid(user: User) -> list[UserSession]:
    return list(UserSession.objects.filter(user=user, expire_date__gt=timezone.now()).order_by("-last_used_at"))


def _public_id(session_key: str) -> str:
    return hashlib.blake2b(session_key.encode(), digest_size=12).hexdigest()
