"""Components in the tenant's admin: inline of a device, and a list."""

from typing import Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest

from devices.models import Component
from tenants.api.views.base import DeviceScope
from tenants.services.roles import Role

from .base import TenantModelAdmin, TenantTabularInline
from .site import tenant_admin


class ComponentInline(TenantTabularInline):
    """The components of a device."""

    model = Component
    changed_by: ClassVar = Role.OPERATOR
    extra = 0
    hide_title = True
    fields: ClassVar = ["component_type", "key", "name", "expected_interval", "attached"]
    autocomplete_fields: ClassVar = ["component_type"]


@admin.register(Component, site=tenant_admin)
class ComponentAdmin(TenantModelAdmin):
    """All components of the tenant."""

    changed_by: ClassVar = Role.OPERATOR
    device_scope: ClassVar = DeviceScope.DEVICES
    device_path = "device"
    list_display: ClassVar = ["key", "name", "component_type", "device", "attached"]
    list_filter: ClassVar = ["component_type", "attached"]
    list_select_related: ClassVar = ["component_type", "device"]
    search_fields: ClassVar = ["key", "name", "device__name", "device__uuid"]
    fields: ClassVar = ["device", ("component_type", "key"), ("name", "expected_interval"), "pins", "attached"]
    autocomplete_fields: ClassVar = ["device", "component_type"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return the fields that cannot be edited."""
        # Its readings belong to the device: to move a component, add it to the other device.
        return ["device"] if obj else []
