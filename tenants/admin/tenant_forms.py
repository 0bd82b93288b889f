"""Forms for creating and suspending tenants."""

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminTextInputWidget

from tenants.models import Domain, Tenant, User, validate_slug

_HOST = re.compile(r"^(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$")
validate_host = RegexValidator(_HOST, _("Enter only a host name, for example greenhouse.example.com."))


def clean_host(value: str) -> str:
    """Return the host name in lower case, as requests are compared with it. Raises ValidationError."""
    host = value.strip().lower()
    if host:
        validate_host(host)
    return host


class OwnerAndHostForm(forms.Form):
    """Owner and host name of a tenant; shown again when its creation is retried."""

    owner = forms.CharField(
        label=_("Owner"),
        required=False,
        help_text=_("User name of an existing account, which becomes the tenant's owner."),
        widget=UnfoldAdminTextInputWidget,
    )
    domain = forms.CharField(
        label=_("Host name"),
        required=False,
        help_text=_("Besides the address /t/slug/, which every tenant has."),
        widget=UnfoldAdminTextInputWidget,
    )

    def clean_owner(self) -> User | None:
        """Return the user with this name, None for an empty name. Raises ValidationError."""
        name = self.cleaned_data["owner"].strip()
        owner = User.objects.filter(username=name).first() if name else None
        if name and owner is None:
            raise ValidationError(_("There is no account with this user name."))
        return owner

    def clean_domain(self) -> str:
        """Return the host name. Raises ValidationError for one of another tenant."""
        host = clean_host(self.cleaned_data["domain"])
        if host and Domain.objects.filter(domain=host).exclude(tenant__slug=self.slug_of_tenant()).exists():
            raise ValidationError(_("This host name belongs to another tenant."))
        return host

    def slug_of_tenant(self) -> str:
        """Return the slug of the form's tenant."""
        return str(self.initial["slug"])


class CreateTenantForm(OwnerAndHostForm):
    """A new tenant."""

    slug = forms.CharField(
        label=_("Slug"),
        max_length=48,
        validators=[validate_slug],
        help_text=_("Used in addresses and topics; it cannot be changed later. For example demo."),
        widget=UnfoldAdminTextInputWidget,
    )
    name = forms.CharField(label=_("Name"), max_length=120, widget=UnfoldAdminTextInputWidget)
    field_order = ("name", "slug", "owner", "domain")

    def clean_slug(self) -> str:
        """Return the slug. Raises ValidationError for one that is already used."""
        slug = str(self.cleaned_data["slug"])
        if Tenant.objects.filter(slug=slug).exists():
            raise ValidationError(_("A tenant with this slug already exists."))
        return slug

    def slug_of_tenant(self) -> str:
        """Return the entered slug."""
        return str(self.cleaned_data.get("slug", ""))


class SuspendTenantForm(forms.Form):
    """The reason for a suspension."""

    reason = forms.CharField(
        label=_("Reason"), max_length=500, help_text=_("For staff."), widget=UnfoldAdminTextInputWidget
    )


class DomainForm(forms.ModelForm):
    """A host name in a tenant's form."""

    class Meta:
        model = Domain
        fields = ("domain", "is_primary")
        labels = {"domain": _("Host name"), "is_primary": _("Main one")}  # noqa: RUF012 (as ModelForm declares it)

    def clean_domain(self) -> Any:
        """Return the host name. Raises ValidationError for one of another tenant."""
        return clean_host(self.cleaned_data["domain"])
