"""The first page, at the public address."""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django_tenants.utils import get_public_schema_name

from .admin.sign_in import SignInForm, answer_of
from .admin.site import is_staff
from .models import Membership, Tenant, User

_MOST_SHOWN = 200


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
            context |= {"entries": _entries(user), "may_console": is_staff(user)}
        return context


def _entries(user: User) -> list[dict[str, Any]]:
    """Return name, URL and role of each tenant of the user."""
    home = reverse("home")
    return [{"name": name, "url": f"{home}t/{slug}/", "role": role} for name, slug, role in _tenants_of(user)]


def _tenants_of(user: User) -> Iterable[tuple[str, str, Any]]:
    active = Tenant.objects.filter(state=Tenant.State.ACTIVE).exclude(schema_name=get_public_schema_name())
    if user.is_superuser:
        return [(tenant.name, tenant.slug, _("staff")) for tenant in active[:_MOST_SHOWN]]
    rows = Membership.objects.filter(user=user, tenant__in=active).select_related("tenant").order_by("tenant__name")
    return [(row.tenant.name, row.tenant.slug, row.get_role_display()) for row in rows[:_MOST_SHOWN]]
