"""The engine of Django's sessions (`SESSION_ENGINE`): rows with user, address and browser, and notice of their end."""

import datetime
from typing import Any, cast

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.utils import timezone

from tenants.infrastructure import hooks
from tenants.models import UserSession

# A session in use writes the time at most this often.
_TOUCH_AFTER = datetime.timedelta(minutes=5)
# Where `note_sign_in` of `user_sessions` leaves the origin of a session.
ORIGIN = "origin"


class SessionStore(DatabaseStore):
    """Sessions in PostgreSQL, listed on the page of their user."""

    @classmethod
    def get_model_class(cls) -> type[UserSession]:
        """Return the model."""
        return UserSession

    def create_model_instance(self, data: dict[str, Any]) -> UserSession:
        """Return the row of the session's data."""
        row: Any = super().create_model_instance(data)
        origin = data.get(ORIGIN) or {}
        row.user_id = int(data[SESSION_KEY]) if SESSION_KEY in data else None
        row.address, row.browser = origin.get("address", ""), origin.get("browser", "")
        if "at" in origin:
            row.created_at = datetime.datetime.fromisoformat(origin["at"])
        return cast("UserSession", row)

    def _get_session_from_db(self) -> UserSession | None:
        row: UserSession | None = super()._get_session_from_db()  # type: ignore[misc]
        now = timezone.now()
        if row is not None and row.user_id is not None and now - row.last_used_at > _TOUCH_AFTER:
            UserSession.objects.filter(pk=row.pk).update(last_used_at=now)
        return row

    def delete(self, session_key: str | None = None) -> None:
        """Delete the row, and end what the session holds open."""
        ended = session_key or self.session_key
        super().delete(session_key)
        if ended:
            for provider in hooks.session_ended:
                provider(ended)
