"""Presence in the tenant's admin: labels, status changes, and the cards of the overview."""

from typing import ClassVar

from django.contrib import admin
from django.db.models import Count
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from devices import hooks
from devices.models import AuditEntry, Device, StatusChange
from devices.models.presence import Status
from tenants.admin.base import ReadOnly, coloured
from tenants.api.views.base import DeviceScope

from .base import TenantModelAdmin
from .site import tenant_admin

STATUS_COLOURS = {
    Status.ONLINE: "success",
    Status.OFFLINE: "danger",
    Status.TIMEOUT: "warning",
    Status.UNKNOWN: "neutral",
}
_AUDIT_SHOWN = 8


def label_of(status: str) -> SafeString:
    """Return the status as a coloured label."""
    return coloured(Status(status).label, STATUS_COLOURS[Status(status)])


@admin.register(StatusChange, site=tenant_admin)
class StatusChangeAdmin(ReadOnly, TenantModelAdmin):
    """The status changes of the tenant."""

    device_scope: ClassVar = DeviceScope.DEVICES
    device_path = "device"
    list_display: ClassVar = ["at", "device", "from_label", "to_label", "cause", "evidence_at", "session"]
    list_filter: ClassVar = ["to_status", "cause", "suppressed_by"]
    list_select_related: ClassVar = ["device"]
    search_fields: ClassVar = ["device__name", "device__uuid"]
    fields: ClassVar = ["device", "from_status", "to_status", "cause", "session", "evidence_at", "at", "suppressed_by"]
    readonly_fields: ClassVar = fields

    @display(description=_("from"), ordering="from_status")
    def from_label(self, change: StatusChange) -> SafeString:
        return label_of(change.from_status)

    @display(description=_("to"), ordering="to_status")
    def to_label(self, change: StatusChange) -> SafeString:
        return label_of(change.to_status)


@hooks.dashboard_panels.provider(0)
def devices_by_status(request: HttpRequest) -> SafeString:
    """Return the cards with the number of active devices by status."""
    active = Device.objects.filter(active=True)
    counts = dict(active.values_list("presence__status").annotate(n=Count("pk")).order_by())
    counts[Status.UNKNOWN] = counts.get(Status.UNKNOWN, 0) + counts.pop(None, 0)
    url = reverse("admin:devices_device_changelist")
    cards = [
        {
            "title": Status(status).label,
            "value": counts.get(status, 0),
            "colour": STATUS_COLOURS[status] if counts.get(status) else "",
            "url": f"{url}?presence__status__exact={status}&active__exact=1",
        }
        for status in (Status.ONLINE, Status.OFFLINE, Status.TIMEOUT, Status.UNKNOWN)
    ]
    return render_to_string("gwanje/cards.html", {"title": _("Devices"), "cards": cards}, request)


@hooks.dashboard_panels.provider(90)
def newest_changes(request: HttpRequest) -> SafeString:
    """Return the panel of the newest audit entries."""
    context = {
        "entries": AuditEntry.objects.all()[:_AUDIT_SHOWN],
        "more_url": reverse("admin:devices_auditentry_changelist"),
    }
    return render_to_string("devices/admin/newest_changes.html", context, request)
