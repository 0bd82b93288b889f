"""Permissions by the role of a member, and of the platform's staff."""

from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from tenants.infrastructure.error_codes import ErrorCode
from tenants.models import ServiceKey, User
from tenants.services.roles import Role, reaches, request_access

if TYPE_CHECKING:
    # REST framework loads this module from its settings, before its views are there.
    from rest_framework.views import APIView


# Instead of a scope: every valid key.
ANY_KEY = "*"


class MemberPermission(BasePermission):
    """Members of the tenant by their role: `role_to_read` and `role_to_write` of the view."""

    message: str = ""
    code: str = ErrorCode.PERMISSION_DENIED

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Return whether the member's role is high enough to read, or to write."""
        reading = request.method in SAFE_METHODS
        needed: Any = (
            getattr(view, "role_to_read", Role.VIEWER) if reading else getattr(view, "role_to_write", Role.ADMIN)
        )
        role = request_access(request).role
        if role is None:
            self.message = _("You are not a member of this tenant. Its administrators can add you.")
            self.code = ErrorCode.MEMBERSHIP_REQUIRED
        else:
            roles = {"needed": needed.value, "role": role.value}
            self.message = _("This requires the role %(needed)s in this tenant; your role is %(role)s.") % roles
            self.code = ErrorCode.ROLE_REQUIRED
        return reaches(role, needed)


class IsSuperuser(BasePermission):
    """Superusers of the platform."""

    message: Any = gettext_lazy("This requires a superuser of the platform.")
    code = ErrorCode.ROLE_REQUIRED

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Return whether the user is an active superuser."""
        return isinstance(request.user, User) and request.user.is_active and request.user.is_superuser


class StaffAccess(IsSuperuser):
    """Superusers of the platform, and their service keys by scope: `resource:read` or `resource:write` of the view.

    A view without a resource is closed to service keys.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Return whether the user is a superuser and the key, where there is one, has the scope."""
        if not super().has_permission(request, view):
            return False
        resource = getattr(view, "resource", "")
        scope = f"{resource}:{'read' if request.method in SAFE_METHODS else 'write'}"
        if not isinstance(request.auth, ServiceKey):
            return True
        self.code = ErrorCode.SCOPE_REQUIRED
        self.message = _("This requires a service key with the scope %(scope)s.") % {"scope": scope}
        if not resource:
            self.message = _("Service keys cannot be used here: log in, or send a user name and a password.")
        return bool(resource) and scope in request.auth.scopes
