"""Presence settings in the tenant's admin: maintenance windows of a device, and the tenant's settings."""

from datetime import timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone

from devices.models import MaintenanceWindow, PresenceSettings
from tenants.services.roles import Role

from .base import TenantModelAdmin, TenantTabularInline
from .site import tenant_admin

# Older windows are not shown here; the API lists them all.
_KEPT = timedelta(days=30)


class MaintenanceWindowInline(TenantTabularInline):
    """The maintenance windows of a device."""

    model = MaintenanceWindow
    changed_by: ClassVar = Role.OPERATOR
    extra = 0
    hide_title = True
    fields: ClassVar = ["starts_at", "ends_at", "reason"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[MaintenanceWindow]:
        """Return the rows of the current tenant."""
        return super().get_queryset(request).filter(ends_at__gt=timezone.now() - _KEPT)


@admin.register(PresenceSettings, site=tenant_admin)
class PresenceSettingsAdmin(TenantModelAdmin):
    """The tenant's presence settings: one row, so the list redirects to its form."""

    fields: ClassVar = ["timeout_seconds", "flapping_changes", "flapping_window_seconds"]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may add."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may delete."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Return the list page."""
        return redirect(reverse("admin:devices_presencesettings_change", args=[1]))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the settings, or the defaults if none are saved."""
        return PresenceSettings.current() if object_id == "1" else None
