"""The console: the admin site of the platform's staff, without data of tenants' schemas."""

from typing import Any

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
from .sign_in import SignInForm, ThrottledSignIn


class ConsoleSignInForm(SignInForm, AuthenticationForm):
    """Admits staff only."""

    place = "console"
    error = _(
        "The user name or the password is not correct, or the account does not belong to the platform's staff."
        " Other users sign in on the first page."
    )

    def may_enter(self, user: User) -> bool:
        """Return whether the user can use the console."""
        return is_staff(user)


def is_staff(user: Any) -> bool:
    """Return whether the user can use the console."""
    return bool(user.is_active and (user.is_staff or user.is_superuser))


class Console(ThrottledSignIn, UnfoldAdminSite):
    """The console. Django's permissions decide what each member of staff can do."""

    login_form = ConsoleSignInForm
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
            "colors": None,  # in static/gwanje/colors.css: unfold would write an inline style
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
