"""What became of every message, day by day, and the sidebar's group."""

from typing import ClassVar

from django.contrib import admin
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from devices.admin import tenant_admin
from devices.admin.base import TenantModelAdmin
from telemetry.models import IngestTotals, Quarantined, RetentionSettings
from tenants.admin.base import ReadOnly
from tenants.admin.navigation import Group


@admin.register(IngestTotals, site=tenant_admin)
class IngestTotalsAdmin(ReadOnly, TenantModelAdmin):
    """Received = stored + duplicates + quarantined + rate limited: the headings say the sum."""

    list_display: ClassVar = ["day", "received", "stored_", "duplicates_", "quarantined_", "rate_limited_"]
    fields: ClassVar = list_display
    readonly_fields: ClassVar = list_display

    @display(description=_("= stored"), ordering="stored")
    def stored_(self, row: IngestTotals) -> int:
        return row.stored

    @display(description=_("+ duplicates"), ordering="duplicates")
    def duplicates_(self, row: IngestTotals) -> int:
        return row.duplicates

    @display(description=_("+ quarantined"), ordering="quarantined")
    def quarantined_(self, row: IngestTotals) -> int:
        return row.quarantined

    @display(description=_("+ rate limited"), ordering="rate_limited")
    def rate_limited_(self, row: IngestTotals) -> int:
        return row.rate_limited


tenant_admin.groups.append(
    Group(
        30, _("Messages"), ((Quarantined, "gpp_bad"), (IngestTotals, "functions"), (RetentionSettings, "auto_delete"))
    ),
)
