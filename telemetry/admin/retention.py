"""The page of the tenant's retention."""

from typing import Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action

from devices.admin import tenant_admin
from devices.admin.base import TenantModelAdmin
from telemetry.models import RetentionSettings

from . import tenant_export


@admin.register(RetentionSettings, site=tenant_admin)
class RetentionSettingsAdmin(TenantModelAdmin):
    """The tenant's retention: one row, so that its list is its form."""

    fields: ClassVar = ["messages_months", "readings_months", "rollups_months"]

    actions_detail: ClassVar = ["export_everything"]

    @action(description=_("Export everything"), icon="archive", permissions=["change"], url_path="export-everything")
    def export_everything(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return tenant_export.page(self, request, reverse("admin:telemetry_retentionsettings_change", args=[1]))

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may add."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may delete."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Return the list page."""
        return redirect(reverse("admin:telemetry_retentionsettings_change", args=[1]))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the retention; without a saved row, settings that keep everything."""
        return RetentionSettings.current() if object_id == "1" else None
