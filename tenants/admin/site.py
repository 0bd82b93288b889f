"""The console: the admin site of the platform's staff, without data of tenants' schemas."""

from typing import Any

from django.contrib.auth.forms import AuthenticationForm as BaseAuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from unfold.forms import AuthenticationForm
from unfold.sites import UnfoldAdminSite

from tenants.infrastructure import hooks
from tenants.models import Tenant, User

from . import overview
from .navigation import sidebar


class ConsoleAuthenticationForm(AuthenticationForm):
    """Accepts staff only; other users get an error that names the first page."""

    def confirm_login_allowed(self, user: User) -> None:
        """Reject users without access. Raises ValidationError."""
        BaseAuthenticationForm.confirm_login_allowed(self, user)
        if not is_staff(user):
            raise ValidationError(
                _("This account does not belong to the platform's staff. Sign in on the first page instead."),
                code="not_staff",
            )


def is_staff(user: Any) -> bool:
    """Return whether the user can use the console."""
    return bool(user.is_active and (user.is_staff or user.is_superuser))


class Console(UnfoldAdminSite):
    """The console. Django's permissions decide what each member of staff can do."""

    login_form = ConsoleAuthenticationForm
    login_template = "gwanje/login.html"
    index_template = "tenants/console_index.html"
    index_title = _("Overview")

    def has_permission(self, request: HttpRequest) -> bool:
        """Return whether the user can use the console."""
        return is_staff(request.user)

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return the context that all pages have."""
        return super().each_context(request) | {
            "site_title": _("Gwanje console"),
            "site_header": _("Gwanje console"),
            "site_url": reverse("home"),
        }

    def get_sidebar_list(self, request: HttpRequest) -> list[dict[str, Any]]:
        """Return the groups of the sidebar."""
        return sidebar(self, hooks.console_navigation, request)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """Render the first page."""
        shown = overview.context(request) if self.get_model_admin(Tenant).has_view_permission(request) else {}
        return super().index(request, {**shown, **(extra_context or {})})


# The two sites are never in one URL configuration, so both have the name that Django's templates use.
console = Console(name="admin")
