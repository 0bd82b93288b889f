"""Whether devices are there: the words and colours, the head of a device's page, the ledger, the first page's cards."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Count
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from devices.models import AuditEntry, Device, DeviceStatus, StatusChange
from devices.models.presence import Status
from devices.services import presence
from tenants.admin.base import ReadOnly, coloured

from . import panels
from .base import TenantModelAdmin
from .site import tenant_admin

STATUS_COLOURS = {
    Status.ONLINE: "success",
    Status.OFFLINE: "danger",
    Status.TIMEOUT: "warning",
    Status.UNKNOWN: "neutral",
}
_HISTORY_SHOWN = 10
_AUDIT_SHOWN = 8


def status_of(device: Device) -> DeviceStatus:
    """The device's state; UNKNOWN where none was recorded."""
    return getattr(device, "presence", None) or DeviceStatus(device=device)


def label_of(status: str) -> SafeString:
    """The state as a coloured word."""
    return coloured(Status(status).label, STATUS_COLOURS[Status(status)])


def last_seen(devices: Iterable[Device]) -> dict[int, datetime | None]:
    """Per device (by id) the newest sign of life: Redis' where it has one, else that of the last transition."""
    listed = list(devices)
    fresh = presence.last_seen([device.uuid for device in listed])
    return {device.pk: _newest(fresh.get(device.uuid), status_of(device).last_seen_at) for device in listed}


def _newest(score: float | None, recorded: datetime | None) -> datetime | None:
    times = [datetime.fromtimestamp(score, UTC)] if score is not None else []
    return max([*times, *([recorded] if recorded else [])], default=None)


@panels.above_device(0)
def head(request: HttpRequest, device: Device) -> SafeString:
    """Status in words, since when and why, and when the device was last seen."""
    status = status_of(device)
    context = {
        "device": device,
        "status": status,
        "label": label_of(status.status),
        "last_seen": last_seen([device])[device.pk],
    }
    return render_to_string("devices/admin/head.html", context, request)


@panels.below_device(90)
def history(request: HttpRequest, device: Device) -> SafeString:
    """The newest transitions, with their evidence."""
    changes = list(device.status_changes.all()[: _HISTORY_SHOWN + 1])
    url = f"{reverse('admin:devices_statuschange_changelist')}?device__uuid={device.uuid}"
    rows = [{"change": change, "label": label_of(change.to_status)} for change in changes[:_HISTORY_SHOWN]]
    context = {"rows": rows, "more_url": url if len(changes) > _HISTORY_SHOWN else ""}
    return render_to_string("devices/admin/status_history.html", context, request)


@admin.register(StatusChange, site=tenant_admin)
class StatusChangeAdmin(ReadOnly, TenantModelAdmin):
    """The ledger of transitions."""

    list_display: ClassVar = ["at", "device", "from_label", "to_label", "cause", "evidence_at", "session"]
    list_filter: ClassVar = ["to_status", "cause"]
    list_select_related: ClassVar = ["device"]
    search_fields: ClassVar = ["device__name", "device__uuid"]
    fields: ClassVar = ["device", "from_status", "to_status", "cause", "session", "evidence_at", "at"]
    readonly_fields: ClassVar = fields

    @display(description=_("from"), ordering="from_status")
    def from_label(self, change: StatusChange) -> SafeString:
        return label_of(change.from_status)

    @display(description=_("to"), ordering="to_status")
    def to_label(self, change: StatusChange) -> SafeString:
        return label_of(change.to_status)

    def lookup_allowed(self, lookup: str, value: str, request: Any = None) -> bool:
        return lookup == "device__uuid" or super().lookup_allowed(lookup, value, request)


@panels.on_dashboard(0)
def devices_by_status(request: HttpRequest) -> SafeString:
    """How many active devices are in which state."""
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


@panels.on_dashboard(90)
def newest_changes(request: HttpRequest) -> SafeString:
    """What was last done, and by whom."""
    context = {
        "entries": AuditEntry.objects.all()[:_AUDIT_SHOWN],
        "more_url": reverse("admin:devices_auditentry_changelist"),
    }
    return render_to_string("devices/admin/newest_changes.html", context, request)
