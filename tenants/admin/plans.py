"""Plans, and the limits of single tenants, on the console."""

from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, StackedInline
from unfold.decorators import display

from tenants.models import Plan, TenantLimits
from tenants.services import limits

from .site import console

_VALUES = [
    (_("Live messages"), [("tenant_rate", "tenant_burst"), ("device_rate", "device_burst"), "daily_quota"]),
    (
        _("Late messages"),
        [("tenant_backfill_rate", "tenant_backfill_burst"), ("device_backfill_rate", "device_backfill_burst")],
    ),
    (_("Each message"), ["max_payload"]),
]
_QUOTAS = [
    ("max_devices", "max_components"),
    ("max_hardware_models", "max_component_types", "max_metrics"),
    ("max_maintenance_windows", "max_api_keys", "max_memberships"),
]
_VALUES += [(_("Quotas"), _QUOTAS)]
_FIELDSETS = [(title, {"fields": fields}) for title, fields in _VALUES]


class TenantLimitsInline(StackedInline):
    """The plan and the own limits of a tenant, on its page."""

    model = TenantLimits
    autocomplete_fields: ClassVar = ["plan"]
    fieldsets: ClassVar = [(None, {"fields": ["plan"]}), *_FIELDSETS]
    extra = 0
    max_num = 1


@admin.register(Plan, site=console)
class PlanAdmin(ModelAdmin):
    """Plans. A plan with tenants cannot be removed."""

    list_display: ClassVar = ["name", "tenant_rate", "device_rate", "daily_quota", "max_payload", "tenants_with_it"]
    search_fields: ClassVar = ["name"]
    fieldsets: ClassVar = [(None, {"fields": ["name"]}), *_FIELDSETS]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plan]:
        """Return the rows with the counts that the list shows."""
        return super().get_queryset(request).annotate(count=Count("tenants"))

    @display(description=_("tenants"), ordering="count")
    def tenants_with_it(self, plan: Any) -> int:
        """Return how many tenants have the plan."""
        return int(plan.count)

    def save_model(self, request: HttpRequest, obj: Plan, form: forms.ModelForm, change: bool) -> None:
        """Save the changed fields."""
        super().save_model(request, obj, form, change)
        limits.publish_plan_change(obj)
