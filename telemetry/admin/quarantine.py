"""What was refused, with the reason, as it was sent."""

from typing import ClassVar

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import display

from devices.admin import tenant_admin
from devices.admin.base import TenantModelAdmin
from devices.admin.site import page_of
from telemetry.models import Quarantined, Reason
from tenants.admin import payloads
from tenants.admin.base import ReadOnly, coloured


@admin.register(Quarantined, site=tenant_admin)
class QuarantinedAdmin(ReadOnly, TenantModelAdmin):
    """The quarantine. Its rows are looked at; the platform alone replays what is parked."""

    list_display: ClassVar = ["reason_label", "detail", "topic", "device", "times", "last_received_at"]
    list_filter: ClassVar = [("reason", ChoicesDropdownFilter), ("device", AutocompleteSelectFilter)]
    list_filter_submit = True
    list_select_related: ClassVar = ["device"]
    search_fields: ClassVar = ["topic"]
    search_help_text = _("part of a topic")
    fields: ClassVar = [
        "reason_label",
        "detail",
        "topic",
        "device_link",
        "times",
        "first_received_at",
        "last_received_at",
        "readable_payload",
    ]
    readonly_fields: ClassVar = fields

    @display(description=_("reason"), ordering="reason")
    def reason_label(self, row: Quarantined) -> SafeString:
        # Parked is not refused: it is replayed by itself.
        return coloured(row.get_reason_display(), "info" if row.reason == Reason.KEY_UNAVAILABLE else "danger")

    @display(description=_("device"))
    def device_link(self, row: Quarantined) -> SafeString | str:
        if row.device is None:
            return "–"
        return format_html('<a class="gw-link" href="{}">{}</a>', page_of(row.device.pk), row.device)

    @display(description=_("payload"))
    def readable_payload(self, row: Quarantined) -> SafeString:
        return payloads.render(row.payload)
