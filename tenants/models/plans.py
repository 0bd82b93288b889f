"""Limits of what tenants send: plans, and limits of single tenants."""

from typing import Any, ClassVar

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


def _rate(name: Any) -> models.FloatField:
    words = _("Messages per second. Empty: the value of the plan, or else of the platform. 0: no limit.")
    return models.FloatField(name, null=True, blank=True, validators=[MinValueValidator(0)], help_text=words)


def _burst(name: Any) -> models.PositiveIntegerField:
    words = _("Messages at once after a pause. Empty: the rate times ten seconds.")
    return models.PositiveIntegerField(name, null=True, blank=True, validators=[MinValueValidator(1)], help_text=words)


def _quota(name: Any) -> models.PositiveIntegerField:
    words = _("Empty: the value of the plan, or else of the platform. 0: no limit.")
    return models.PositiveIntegerField(name, null=True, blank=True, help_text=words)


class LimitValues(models.Model):
    """Values of limits. Empty: the next of tenant, plan and settings applies; 0: unlimited."""

    tenant_rate = _rate(_("rate of the tenant"))
    tenant_burst = _burst(_("burst of the tenant"))
    device_rate = _rate(_("rate of each device"))
    device_burst = _burst(_("burst of each device"))
    tenant_backfill_rate = _rate(_("backfill rate of the tenant"))
    tenant_backfill_burst = _burst(_("backfill burst of the tenant"))
    device_backfill_rate = _rate(_("backfill rate of each device"))
    device_backfill_burst = _burst(_("backfill burst of each device"))
    daily_quota = models.PositiveBigIntegerField(
        _("daily quota"),
        null=True,
        blank=True,
        help_text=_(
            "Messages per day (UTC), without late ones. Empty: the value of the plan, or else of the"
            " platform. 0: no limit."
        ),
    )
    max_payload = models.PositiveIntegerField(
        _("largest message"),
        null=True,
        blank=True,
        help_text=_("Bytes. Empty: the value of the plan. 0: the limit of the platform, which always applies."),
    )

    max_devices = _quota(_("devices"))
    max_components = _quota(_("components"))
    max_hardware_models = _quota(_("hardware models"))
    max_component_types = _quota(_("component types"))
    max_metrics = _quota(_("metrics"))
    max_maintenance_windows = _quota(_("maintenance windows"))
    max_api_keys = _quota(_("API keys"))
    max_memberships = _quota(_("memberships"))

    class Meta:
        abstract = True
        constraints: ClassVar = [
            # Also rejects NaN, which PostgreSQL sorts above all numbers.
            models.CheckConstraint(
                condition=Q(**{f"{name}__gte": 0, f"{name}__lte": 1e9}) | Q(**{f"{name}__isnull": True}),
                name=f"%(class)s_{name}",
            )
            for name in ("tenant_rate", "device_rate", "tenant_backfill_rate", "device_backfill_rate")
        ]


class Plan(LimitValues):
    """Limits that several tenants share."""

    name = models.CharField(_("name"), max_length=80, unique=True)

    class Meta(LimitValues.Meta):
        abstract = False
        ordering: ClassVar = ["name"]
        verbose_name = _("plan")
        verbose_name_plural = _("plans")

    def __str__(self) -> str:
        return self.name


class TenantLimits(LimitValues):
    """A tenant's plan, and its own limits, which replace those of the plan."""

    tenant = models.OneToOneField(
        "tenants.Tenant", on_delete=models.CASCADE, related_name="limits", verbose_name=_("tenant")
    )
    plan = models.ForeignKey(
        Plan, on_delete=models.PROTECT, null=True, blank=True, related_name="tenants", verbose_name=_("plan")
    )

    class Meta(LimitValues.Meta):
        abstract = False
        verbose_name = _("limits")
        verbose_name_plural = _("limits")

    def __str__(self) -> str:
        return str(self.plan) if self.plan else str(_("no plan"))
