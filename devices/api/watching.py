"""Who watches an event stream, as a value that can be asked again while it lasts."""

from dataclasses import dataclass
from typing import Any

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from rest_framework.request import Request

from devices.models import ApiKey
from tenants.models import Membership, Tenant, User
from tenants.services.roles import reaches, role_of


@dataclass(frozen=True, slots=True)
class Watcher:
    """A key (or 0), or a person with a session, in a tenant."""

    tenant_id: int
    key_id: int = 0
    user_id: int = 0
    session: str = ""
    least: Membership.Role = Membership.Role.VIEWER  # that a person must have

    def may_watch(self) -> bool:
        """Whether the tenant is in service and the key still valid, or the person logged in and with that role.

        Asks the database, in the tenant's schema.
        """
        tenant = Tenant.objects.filter(pk=self.tenant_id, state=Tenant.State.ACTIVE).first()
        if tenant is None:
            return False
        if self.key_id:
            key = ApiKey.objects.filter(pk=self.key_id).first()
            return key is not None and key.is_valid()
        user = User.objects.filter(pk=self.user_id).first()
        return user is not None and self._is_logged_in() and reaches(role_of(user, tenant), self.least)

    def _is_logged_in(self) -> bool:
        return str(SessionStore(self.session).get(SESSION_KEY)) == str(self.user_id)


def watcher_of(request: Request, least: Membership.Role = Membership.Role.VIEWER) -> Watcher:
    """Who makes the request, which has been let in."""
    if isinstance(request.auth, ApiKey):
        return Watcher(request._request.tenant.pk, key_id=request.auth.pk)  # type: ignore[attr-defined]
    return person_watching(request._request, least)


def person_watching(request: Any, least: Membership.Role) -> Watcher:
    """The person who makes a request of Django's own."""
    session = request.session.session_key or ""
    return Watcher(request.tenant.pk, user_id=request.user.pk or 0, session=session, least=least)
