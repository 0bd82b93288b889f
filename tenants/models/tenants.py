"""Tenants, their host names and topic aliases, and the users with their memberships."""

from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.core.validators import RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _
from django_tenants.models import DomainMixin, TenantMixin

# The slug is in URLs, topics, Vault paths and (with _ for -) the schema's name, so it is narrow.
SLUG_PATTERN = r"^[a-z](?:[a-z0-9-]{0,46}[a-z0-9])?$"
validate_slug = RegexValidator(
    SLUG_PATTERN,
    _(
        "Use 1 to 48 lower-case letters, digits and hyphens. The first character must be a letter, and"
        " the last must not be a hyphen."
    ),
)


class User(AbstractUser):
    """A person. What one may do in a tenant is said by a Membership; `is_staff` opens the staff's console."""


class Tenant(TenantMixin):
    """One customer, with a PostgreSQL schema of its own. Created by `tenants.services.lifecycle.create_tenant` only."""

    class State(models.TextChoices):
        CREATING = "creating", _("being created")
        ACTIVE = "active", _("active")
        SUSPENDED = "suspended", _("suspended")
        FAILED = "failed", _("creation failed")

    name = models.CharField(_("name"), max_length=120)
    slug = models.CharField(_("slug"), max_length=48, unique=True, validators=[validate_slug])
    state = models.CharField(_("state"), max_length=12, choices=State.choices, default=State.CREATING)
    state_detail = models.TextField(_("description of the state"), blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    # The schema is made by the service, which records how far it came.
    auto_create_schema = False
    auto_drop_schema = False

    class Meta:
        ordering: ClassVar = ["slug"]
        verbose_name = _("tenant")
        verbose_name_plural = _("tenants")

    def __str__(self) -> str:
        return self.name


class Domain(DomainMixin):
    """A host name under which a tenant is reached, besides `/t/{slug}/`."""

    class Meta:
        verbose_name = _("host name")
        verbose_name_plural = _("host names")


class TenantAlias(models.Model):
    """What old firmware sends in the place of the slug: its owner's e-mail address."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="aliases", verbose_name=_("tenant"))
    address = models.CharField(
        _("topic segment"),
        max_length=254,
        help_text=_("The second level of the topics of the tenant's old devices, for example an e-mail address."),
        validators=[RegexValidator(r"^[^/+#\x00]+$", _("A topic segment must not contain /, + or #."))],
    )

    class Meta:
        ordering: ClassVar = ["address"]
        constraints: ClassVar = [
            # One owner may have devices in several tenants; routing compares with the device's own tenant.
            models.UniqueConstraint(fields=["tenant", "address"], name="alias_once_per_tenant"),
        ]
        verbose_name = _("topic alias")
        verbose_name_plural = _("topic aliases")

    def __str__(self) -> str:
        return self.address


class Membership(models.Model):
    """What a user may do in a tenant. Read by `tenants.services.roles.role_of` alone."""

    class Role(models.TextChoices):
        VIEWER = "viewer", _("viewer: sees everything, changes nothing")
        OPERATOR = "operator", _("operator: registers and changes devices")
        ADMIN = "admin", _("administrator: also metadata, keys and people")

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships", verbose_name=_("user"))
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships", verbose_name=_("tenant"))
    role = models.CharField(_("role"), max_length=10, choices=Role.choices, default=Role.VIEWER)

    class Meta:
        constraints: ClassVar = [
            # One role a person and tenant: role_of() answers with this row.
            models.UniqueConstraint(fields=["user", "tenant"], name="membership_once"),
        ]
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")

    def __str__(self) -> str:
        return f"{self.user} · {self.tenant} · {self.role}"
