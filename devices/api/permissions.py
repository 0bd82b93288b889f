"""What a person's role and a key's scope allow in a tenant."""

from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from devices.models import ApiKey
from tenants.models import Membership
from tenants.services.roles import reaches, role_of

if TYPE_CHECKING:
    # REST framework loads this module from its settings, before its views are there.
    from rest_framework.views import APIView

Role = Membership.Role


class TenantAccess(BasePermission):
    """Members by their role, API keys by their scope, nobody else.

    A view says `role_to_read` (viewer unless it says otherwise), `role_to_write` (administrator) and
    `open_to_keys` (yes), and `only_admin_keys` (no). A key that may write counts as far as
    metadata; keys manage no keys.
    """

    message: str = ""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        reading = request.method in SAFE_METHODS
        if isinstance(request.auth, ApiKey):
            return self._key_may(request.auth, reading, view)
        return self._person_may(request, reading, view)

    def _key_may(self, key: ApiKey, reading: bool, view: "APIView") -> bool:
        if not getattr(view, "open_to_keys", True):
            self.message = _("API keys are managed by a person: log in as an administrator of the tenant.")
            return False
        if key.scope == ApiKey.Scope.ADMIN:
            return True
        if getattr(view, "only_admin_keys", False):
            self.message = _("This needs an API key that may export everything, or an administrator of the tenant.")
            return False
        self.message = _("This API key may only read: use one that was issued to read and write.")
        return reading or key.scope == ApiKey.Scope.WRITE

    def _person_may(self, request: Request, reading: bool, view: "APIView") -> bool:
        needed: Any = (
            getattr(view, "role_to_read", Role.VIEWER) if reading else getattr(view, "role_to_write", Role.ADMIN)
        )
        role = role_of(request.user, getattr(request, "tenant", None))
        if role is None:
            self.message = _("You are no member of this tenant: one of its administrators can make you one.")
        else:
            roles = {"needed": needed.value, "role": role.value}
            self.message = _("This needs the role %(needed)s in this tenant; yours is %(role)s.") % roles
        return reaches(role, needed)
