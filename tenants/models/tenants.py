"""Tenants, their host names and topic aliases, and the users with their memberships."""

from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django_tenants.models import DomainMixin, TenantMixin

from tenants.infrastructure.origins import ORIGIN_PATTERN

from .base import CountedModel

# The slug is part of URLs, topics, Vault paths and, with _ for -, of the schema's name: few characters are allowed.
SLUG_PATTERN = r"^[a-z](?:[a-z0-9-]{0,46}[a-z0-9])?$"
validate_slug = RegexValidator(
    SLUG_PATTERN,
    _(
        "Use 1 to 48 lower-case letters, digits and hyphens. The first character must be a letter, and"
        " the last must not be a hyphen."
    ),
)
validate_origin = RegexValidator(
    ORIGIN_PATTERN, _("An origin is a scheme and a host name, for example https://app.example.com, or * for all.")
)


class User(AbstractUser):
    """A user. Memberships give roles in tenants; `is_staff` gives access to the console."""


class Tenant(TenantMixin):
    """A customer with a PostgreSQL schema. Created by `tenants.services.lifecycle.create_tenant` only."""

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
    cors_origins = ArrayField(
        models.CharField(max_length=270, validators=[validate_origin]),
        verbose_name=_("origins (CORS)"),
        default=list,
        blank=True,
        help_text=_("Pages of these origins may use the API with an API key: https://app.example.com, or * for all."),
    )

    # The service creates the schema and stores the state of the creation.
    auto_create_schema = False
    auto_drop_schema = False

    class Meta:
        ordering: ClassVar = ["slug"]
        verbose_name = _("tenant")
        verbose_name_plural = _("tenants")

    def __str__(self) -> str:
        return self.name


class Domain(DomainMixin):
    """A host name of a tenant, in addition to `/t/{slug}/`."""

    class Meta:
        verbose_name = _("host name")
        verbose_name_plural = _("host names")


class TenantAlias(models.Model):
    """A topic segment that old firmware sends instead of the slug: its owner's e-mail address."""

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
            # One owner may have devices in several tenants; routing compares with the tenant of the device.
            models.UniqueConstraint(fields=["tenant", "address"], name="alias_once_per_tenant"),
        ]
        verbose_name = _("topic alias")
        verbose_name_plural = _("topic aliases")

    def __str__(self) -> str:
        return self.address


class Membership(CountedModel):
    """A user's role in a tenant. Only `tenants.services.roles.role_of` reads it."""

    quota = "max_memberships"

    class Role(models.TextChoices):
        VIEWER = "viewer", _("viewer: sees everything, changes nothing")
        OPERATOR = "operator", _("operator: registers and changes devices")
        ADMIN = "admin", _("administrator: also metadata, keys and people")
        OWNER = "owner", _("owner: also names owners")

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships", verbose_name=_("user"))
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships", verbose_name=_("tenant"))
    role = models.CharField(_("role"), max_length=10, choices=Role.choices, default=Role.VIEWER)
    # The devices that the member can see, as `devices.domain.selector` reads it; empty: all.
    selector = models.JSONField(_("device selector"), default=dict, db_default={}, blank=True, editable=False)

    class Meta:
        constraints: ClassVar = [
            # One role for each user and tenant; role_of() returns it.
            models.UniqueConstraint(fields=["user", "tenant"], name="membership_once"),
        ]
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")

    def __str__(self) -> str:
        return f"{self.user} · {self.tenant} · {self.role}"

    def quota_schema(self) -> str:
        return self.tenant.schema_name

    @classmethod
    def counted(cls, schema: str) -> QuerySet["Membership"]:
        """Return the tenant's memberships."""
        return cls.objects.filter(tenant__schema_name=schema)
