"""The admin site of a tenant. The membership's role alone defines access and permissions."""

from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from unfold.forms import AuthenticationForm
from unfold.sites import UnfoldAdminSite

from devices import hooks
from devices.api.visibility import selector_of
from tenants.admin.navigation import sidebar
from tenants.admin.sign_in import SignInForm, ThrottledSignIn
from tenants.models import User
from tenants.services.roles import role_of

from .roles import role

# Pages that are open to members with a device selector, and the pages of single objects.
_OPEN_OBJECTS = ("devices_device_", "devices_component_", "devices_statuschange_")
_OPEN = {"index", "login", "logout", "jsi18n", "autocomplete", *(f"{name}changelist" for name in _OPEN_OBJECTS)}


class TenantSignInForm(SignInForm, AuthenticationForm):
    """Admits users with a role in the tenant of the request."""

    place = "tenant"
    error = _("The user name or the password is not correct, or the account has no role in this tenant.")

    def may_enter(self, user: User) -> bool:
        """Return whether the user has a role in the tenant."""
        return role_of(user, getattr(self.request, "tenant", None)) is not None


class TenantAdminSite(ThrottledSignIn, UnfoldAdminSite):
    """A tenant's admin site. Its pages show the tenant's name."""

    login_form = TenantSignInForm
    login_template = "gwanje/login.html"
    index_template = "devices/admin/dashboard.html"
    index_title = _("Overview")

    def has_permission(self, request: HttpRequest) -> bool:
        """Return whether the request is allowed."""
        return role(request) is not None

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return the context of every page of the site."""
        name = str(getattr(request, "tenant", ""))
        return super().each_context(request) | {
            "site_title": name,
            "site_header": name,
            "site_url": None,
            "colors": None,
        }

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Return the view; closed to members with a device selector, unless it shows devices."""
        inner = super().admin_view(view, cacheable)

        @wraps(inner)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if self.has_permission(request) and not _is_open(request) and selector_of(request):
                raise PermissionDenied
            return inner(request, *args, **kwargs)

        return checked

    def get_sidebar_list(self, request: HttpRequest) -> list[dict[str, Any]]:
        """Return the groups of the sidebar."""
        return sidebar(self, hooks.tenant_navigation, request)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """Return the first page."""
        # The panels count what belongs to the whole tenant.
        rendered = [] if selector_of(request) else [panel(request) for panel in hooks.dashboard_panels]
        return super().index(request, {"panels": rendered, **(extra_context or {})})


def _is_open(request: HttpRequest) -> bool:
    """Return whether the page is open to members with a device selector: pages of one object read it narrowed."""
    match = request.resolver_match
    name = (match.url_name if match else None) or ""
    return name in _OPEN or (match is not None and "object_id" in match.kwargs and name.startswith(_OPEN_OBJECTS))


def page_of(device_pk: object) -> str:
    """Return the URL of a device's page."""
    return reverse("admin:devices_device_change", args=[device_pk])


# The two sites are never in one URL configuration, so both have the name that Django's templates use.
tenant_admin = TenantAdminSite(name="admin")
