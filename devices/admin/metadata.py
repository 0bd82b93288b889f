"""Units, hardware models, and component types with their metrics in the tenant's admin."""

from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display

from devices import hooks
from devices.models import ComponentType, HardwareModel, Metric, Unit
from devices.models.base import announce_change
from tenants.api.views.base import DeviceScope
from tenants.infrastructure.hooks import NavigationGroup

from .base import TenantModelAdmin, TenantStackedInline
from .site import tenant_admin


@admin.register(Unit, site=tenant_admin)
class UnitAdmin(TenantModelAdmin):
    """Units of measurement."""

    list_display: ClassVar = ["symbol", "name", "quantity", "ucum"]
    list_filter: ClassVar = ["quantity"]
    search_fields: ClassVar = ["symbol", "name", "quantity", "ucum"]
    fields: ClassVar = [("symbol", "name"), ("quantity", "ucum")]


def keep_blanks(field: Any) -> None:
    """Make a form's text field keep blanks at its ends: a device can send them in the names of its values."""
    field.strip = False


class MetricInline(TenantStackedInline):
    """The metrics of a component type. Errors of the model are shown at their fields."""

    model = Metric
    extra = 0
    fields: ClassVar = [
        ("key", "name"),
        ("path", "value_type"),
        "unit",
        "sent_unit",
        "unit_path",
        ("minimum", "maximum"),
        ("number_format", "numbers_as_text"),
        ("true_value", "false_value"),
        ("sentinels", "sentinel_treatment"),
    ]
    autocomplete_fields: ClassVar = ["unit", "sent_unit"]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the form's field; paths keep their blanks."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name in ("path", "unit_path"):
            keep_blanks(field)
        return field


_ENTRIES = (("list_path", "list_form"), ("time_path", "time_format"), "time_zone")


@admin.register(ComponentType, site=tenant_admin)
class ComponentTypeAdmin(TenantModelAdmin):
    """Types of sensors and actuators."""

    device_scope: ClassVar = DeviceScope.SHARED
    list_display: ClassVar = ["key", "name", "metric_count", "expected_interval"]
    search_fields: ClassVar = ["key", "name"]
    fields: ClassVar = [
        ("key", "name"),
        "expected_interval",
        ("unmapped", "invalid_values"),
        "description",
        *_ENTRIES,
    ]
    inlines: ClassVar = [MetricInline]
    actions_detail: ClassVar = ["teach"]

    @action(description=_("Map metrics from an example"), icon="school", permissions=["change"], url_path="teach")
    def teach(self, request: HttpRequest, object_id: str) -> HttpResponse:
        component_type = self.get_object(request, object_id)
        if component_type is None:
            raise Http404
        return hooks.metric_mapping_page.first()(request, component_type)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ComponentType]:
        """Return the rows with the counts of the list."""
        return super().get_queryset(request).annotate(metric_total=Count("metrics"))

    @display(description=_("metrics"), ordering="metric_total")
    def metric_count(self, component_type: Any) -> int:
        return int(component_type.metric_total)


@admin.register(HardwareModel, site=tenant_admin)
class HardwareModelAdmin(TenantModelAdmin):
    """Boards with their allowed component types."""

    list_display: ClassVar = ["name", "version", "device_count"]
    search_fields: ClassVar = ["name", "version"]
    fields: ClassVar = [("name", "version"), "timeout_seconds", "text_wills", "allowed_component_types"]
    autocomplete_fields: ClassVar = ["allowed_component_types"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[HardwareModel]:
        """Return the rows with the counts of the list."""
        return super().get_queryset(request).annotate(device_total=Count("devices"))

    @display(description=_("devices"), ordering="device_total")
    def device_count(self, model: Any) -> int:
        return int(model.device_total)

    def save_related(self, request: HttpRequest, form: forms.ModelForm, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        announce_change()  # saving the allowed types does not announce a change


_NAVIGATION = NavigationGroup(
    _("Hardware"),
    (
        (HardwareModel, "developer_board"),
        (ComponentType, "extension"),
        (Unit, "straighten"),
    ),
)
hooks.tenant_navigation.register(_NAVIGATION, order=20)
