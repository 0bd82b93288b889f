"""Places in the tenant's admin."""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from devices.models import Place
from tenants.services.roles import Role

from .base import TenantModelAdmin
from .site import tenant_admin


@admin.register(Place, site=tenant_admin)
class PlaceAdmin(TenantModelAdmin):
    """Places as a tree: each below the place that contains it."""

    changed_by: ClassVar = Role.OPERATOR
    list_display: ClassVar = ["indented_name", "key", "kind", "device_count"]
    list_display_links: ClassVar = ["indented_name"]
    list_filter: ClassVar = ["kind"]
    search_fields: ClassVar = ["key", "name", "path"]
    fields: ClassVar = [("name", "key"), ("parent", "kind"), "path"]
    readonly_fields: ClassVar = ["path"]
    autocomplete_fields: ClassVar = ["parent"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Place]:
        """Return the rows with the counts of the list."""
        return super().get_queryset(request).annotate(device_total=Count("devices"))

    @display(description=_("name"), ordering="path")
    def indented_name(self, place: Place) -> SafeString:
        """Return the name, further to the right for each place above it."""
        return format_html("{}{}", "\N{NO-BREAK SPACE}" * 6 * place.path.count("/"), place.name)

    @display(description=_("devices"), ordering="device_total")
    def device_count(self, place: Any) -> int:
        return int(place.device_total)
