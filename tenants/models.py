"""The public schema: tenants, the people and their memberships, and which device belongs to whom."""

from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.core.validators import RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _
from django_tenants.models import DomainMixin, TenantMixin

from .boards import Board
from .plans import Plan, TenantLimits

__all__ = [
    "SLUG_PATTERN",
    "AppRoute",
    "Board",
    "DeviceRoute",
    "Domain",
    "Membership",
    "Plan",
    "Tenant",
    "TenantAlias",
    "TenantLimits",
    "UnroutedFlood",
    "UnroutedMessage",
    "User",
    "WaitingMessage",
    "validate_slug",
]

# The slug is in URLs, topics, Vault paths and (with _ for -) the schema's name, so it is narrow.
SLUG_PATTERN = r"^[a-z](?:[a-z0-9-]{0,46}[a-z0-9])?$"
validate_slug = RegexValidator(
    SLUG_PATTERN,
    _("Use 1 to 48 lower-case letters, digits and hyphens, beginning with a letter and not ending with a hyphen."),
)


class User(AbstractUser):
    """A person. What one may do in a tenant is said by a Membership; `is_staff` opens the staff's console."""


class Tenant(TenantMixin):
    """One customer, with a PostgreSQL schema of its own. Created by `tenants.services.create_tenant` only."""

    class State(models.TextChoices):
        CREATING = "creating", _("being created")
        ACTIVE = "active", _("active")
        SUSPENDED = "suspended", _("suspended")
        FAILED = "failed", _("creation failed")

    name = models.CharField(_("name"), max_length=120)
    slug = models.CharField(_("slug"), max_length=48, unique=True, validators=[validate_slug])
    state = models.CharField(_("state"), max_length=12, choices=State.choices, default=State.CREATING)
    state_detail = models.TextField(_("state in words"), blank=True)
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
        help_text=_("What the device sends as the second level of its topic, for example an e-mail address."),
        validators=[RegexValidator(r"^[^/+#\x00]+$", _("A topic segment holds no /, + or #."))],
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
    """What a user may do in a tenant. Read by `tenants.access.role_of` alone."""

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


class DeviceRoute(models.Model):
    """Device UUID → tenant, unique over the platform: the only thing that says whose a message is."""

    device_uuid = models.UUIDField(_("device UUID"), primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="device_routes", verbose_name=_("tenant"))
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("device route")
        verbose_name_plural = _("device routes")

    def __str__(self) -> str:
        return str(self.device_uuid)


class AppRoute(models.Model):
    """First characters of an API key → tenant: whose the app is that connects to the broker with it."""

    prefix = models.CharField(_("begins with"), max_length=24, primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="app_routes", verbose_name=_("tenant"))

    class Meta:
        verbose_name = _("app route")
        verbose_name_plural = _("app routes")

    def __str__(self) -> str:
        return self.prefix


class UnroutedMessage(models.Model):
    """A message that belongs to no tenant, kept for staff with the reason. The same one again is counted."""

    fingerprint = models.UUIDField(_("fingerprint"), unique=True, editable=False)
    reason = models.CharField(_("reason"), max_length=40)
    detail = models.TextField(_("in words"))
    topic = models.TextField(_("topic"))
    payload = models.BinaryField(_("payload"))
    first_received_at = models.DateTimeField(_("first received"))
    last_received_at = models.DateTimeField(_("last received"), db_index=True)  # the console's list order
    times = models.BigIntegerField(_("times"), default=1)

    class Meta:
        ordering: ClassVar = ["-last_received_at"]
        verbose_name = _("message of no tenant")
        verbose_name_plural = _("messages of no tenant")

    def __str__(self) -> str:
        return f"{self.reason}: {self.topic[:80]}"


class WaitingMessage(models.Model):
    """A message that the listener has put aside, because its tenant's tables are locked. It is stored when they are
    free, in the order of the ids. Only listeners read it; staff are told how many there are."""

    schema_name = models.CharField(_("tenant's schema"), max_length=63)
    topic = models.TextField(_("topic"))
    payload = models.BinaryField(_("payload"))
    received_at = models.DateTimeField(_("received"))

    class Meta:
        ordering: ClassVar = ["id"]
        indexes: ClassVar = [models.Index(fields=["schema_name", "id"], name="waiting_message_order")]
        verbose_name = _("message that waits for its tenant")
        verbose_name_plural = _("messages that wait for their tenant")

    def __str__(self) -> str:
        return f"{self.schema_name}: {self.topic[:80]}"


class UnroutedFlood(models.Model):
    """Messages of no tenant of a day (UTC) that are like those that are kept, and were counted instead.

    `source` is what the topic names (segment/uuid), or empty for all of them together.
    """

    day = models.DateField(_("day"))
    reason = models.CharField(_("reason"), max_length=40)
    source = models.CharField(_("source"), max_length=120, blank=True)
    times = models.BigIntegerField(_("times"), default=0)
    detail = models.TextField(_("in words"), blank=True)
    last_received_at = models.DateTimeField(_("last received"))

    class Meta:
        ordering: ClassVar = ["-day", "-times"]
        constraints: ClassVar = [
            # What the listener adds to.
            models.UniqueConstraint(fields=["day", "reason", "source"], name="unrouted_flood_once"),
        ]
        verbose_name = _("messages of no tenant that were counted")
        verbose_name_plural = _("messages of no tenant that were counted")

    def __str__(self) -> str:
        return f"{self.day} {self.reason}: {self.times}"
