"""The first page, at the public address, the page of a user's own account, and that of error codes."""

from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.contrib.auth.views import LoginView, PasswordChangeView
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import reverse, reverse_lazy
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.generic import TemplateView
from django_tenants.utils import get_public_schema_name

from .admin.sign_in import OwnPasswordChangeForm, SignInForm, answer_of, answer_of_form
from .admin.site import is_staff
from .infrastructure.error_codes import ErrorCode
from .models import Domain, Membership, SignIn, Tenant, User
from .services import user_sessions

_MOST_SHOWN = 200
_MOST_SIGN_INS = 20


class LandingSignInForm(SignInForm, AuthenticationForm):
    """Admits every active account."""

    place = "first page"


class LandingPage(LoginView):
    """A description, the form to sign in, and, for a signed-in user, the user's tenants."""

    form_class = LandingSignInForm
    template_name = "tenants/landing.html"
    next_page = "home"

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        """Sign in, and remember the browser."""
        return answer_of(self.request, super().form_valid(form))

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """Show the form with its error, with the status of a rejected attempt."""
        return answer_of(self.request, super().form_invalid(form))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Return the context, for a signed-in user with the user's tenants."""
        context = super().get_context_data(**kwargs)
        user = self.request.user
        if isinstance(user, User):
            context |= {"entries": _entries(self.request, user), "may_console": is_staff(user)}
        return context


class ErrorsPage(TemplateView):
    """The codes of the API's errors: the address of each is the `type` of its problem documents."""

    template_name = "tenants/api_errors.html"
    extra_context = {"codes": list(ErrorCode)}  # noqa: RUF012 (a dictionary is what the base class has)


class OwnAccount:
    """Mixin of the pages of a signed-in user; others are sent to the form to sign in."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Answer a signed-in user."""
        if not isinstance(request.user, User):
            form = reverse("home") if getattr(request, "tenant", None) is None else reverse("admin:login")
            return redirect(f"{form}?{urlencode({'next': request.get_full_path()})}")
        return super().dispatch(request, *args, **kwargs)  # type: ignore[misc]


class AccountPage(OwnAccount, TemplateView):
    """A user's sessions, which can be ended one by one or all, and the history of sign-ins."""

    template_name = "tenants/account.html"
    http_method_names = ("get", "head", "post")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Return the context with sessions and history."""
        user = cast("User", self.request.user)
        return super().get_context_data(**kwargs) | {
            "sessions": user_sessions.sessions_of(user, self.request.session.session_key),
            "sign_ins": SignIn.objects.filter(user=user)[:_MOST_SIGN_INS],
        }

    def post(self, request: HttpRequest) -> HttpResponse:
        """End the session that the button names, or all."""
        user = cast("User", request.user)
        if "everywhere" in request.POST:
            user_sessions.end_all(user)
            request.session.flush()
            return redirect("home")
        if user_sessions.end_session(user, request.POST.get("session", "")):
            messages.success(request, gettext("The session was ended."))
        else:
            messages.info(request, gettext("This session had already ended."))
        return redirect("account")


class AccountPasswordPage(OwnAccount, PasswordChangeView):
    """The change of a user's own password, which ends the other sessions."""

    form_class = OwnPasswordChangeForm
    template_name = "tenants/account_password.html"
    success_url = reverse_lazy("account")

    def get_form_kwargs(self) -> dict[str, Any]:
        """Return the arguments of the form."""
        return super().get_form_kwargs() | {"request": self.request}

    def form_valid(self, form: PasswordChangeForm) -> HttpResponseRedirect:
        """Change the password."""
        response = cast("HttpResponseRedirect", super().form_valid(form))
        user_sessions.end_all(cast("User", self.request.user), except_key=self.request.session.session_key)
        messages.success(self.request, gettext("The password was changed, and all other sessions were ended."))
        return response

    def form_invalid(self, form: PasswordChangeForm) -> HttpResponse:
        """Show the form with its errors, with the status of a rejected attempt."""
        return answer_of_form(super().form_invalid(form), form)


def _entries(request: HttpRequest, user: User) -> list[dict[str, Any]]:
    """Return name, URL and role of each tenant of the user; the URL is empty where a tenant has no address."""
    roles = dict(_tenants_of(user))
    hosts = dict(Domain.objects.filter(tenant__in=roles, is_primary=True).values_list("tenant_id", "domain"))
    return [
        {"name": tenant.name, "url": _address_of(request, tenant, hosts.get(tenant.pk, "")), "role": role}
        for tenant, role in roles.items()
    ]


def _address_of(request: HttpRequest, tenant: Tenant, host: str) -> str:
    if settings.TENANT_PATHS:
        return f"{reverse('home')}t/{tenant.slug}/"
    _name, colon, port = request.get_host().rpartition(":")
    return f"{request.scheme}://{host}{colon}{port if colon else ''}/" if host else ""


def _tenants_of(user: User) -> Iterable[tuple[Tenant, Any]]:
    active = Tenant.objects.filter(state=Tenant.State.ACTIVE).exclude(schema_name=get_public_schema_name())
    if user.is_superuser:
        return [(tenant, _("staff")) for tenant in active[:_MOST_SHOWN]]
    rows = Membership.objects.filter(user=user, tenant__in=active).select_related("tenant").order_by("tenant__name")
    return [(row.tenant, row.get_role_display()) for row in rows[:_MOST_SHOWN]]
