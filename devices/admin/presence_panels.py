"""Presence panels of a device's page: status with its cause, timeline and months, components, status changes."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from devices import hooks
from devices.models import Device
from devices.services.presence import (
    availability,
    contacts,
    descriptions,
    freshness,
    overview,
    status_changes,
    warnings,
)
from devices.services.presence.timeouts import loaded
from tenants.admin.base import coloured

from .presence import label_of
from .timeline import RANGES, bar

FRESHNESS_COLOURS = {
    freshness.Freshness.FRESH: "success",
    freshness.Freshness.STALE: "warning",
    freshness.Freshness.NEVER: "neutral",
}
_HISTORY_SHOWN = 8


@hooks.panels_above_device.provider(0)
def head(request: HttpRequest, device: Device) -> SafeString:
    """Return the panel of the status: cause, begin, last activity, timeout."""
    known = _overview(device)
    context = {
        "device": device,
        "known": known,
        "label": label_of(known.status.status),
        "badges": badges(known.flapping, known.in_maintenance),
        "description": descriptions.describe_change(known.change, known.status.session) if known.change else "",
        "suppression": descriptions.describe_suppression(known.change) if known.change else "",
        "contact": contacts.describe_contact(known.contact) if known.contact else "",
        "warnings": [warning.detail for warning in warnings.warnings_of(device, timezone.now())],
        "silence": descriptions.format_duration(known.timeout),
    }
    return render_to_string("devices/admin/head.html", context, request)


@hooks.panels_above_device.provider(5)
def timeline(request: HttpRequest, device: Device) -> SafeString:
    """Return the panel of the last 24 hours or 30 days, with the availability of this and the last month."""
    now = timezone.now()
    shown = RANGES.get(request.GET.get("timeline", ""), RANGES["24h"])
    start = now - shown.length
    windows = status_changes.maintenance_windows(device, start, now)
    context = {
        "bar": bar(status_changes.timeline(device, start, now), windows, shown, start),
        "months": _months(device, now),
        "zone": timezone.get_current_timezone_name(),
        "history_url": reverse("admin:devices_device_presence", args=[device.pk]),
    }
    return render_to_string("devices/admin/timeline.html", context, request)


@hooks.panels_above_device.provider(8)
def components(request: HttpRequest, device: Device) -> SafeString:
    """Return the panel of the components' freshness."""
    reports = _overview(device).reports
    rows = [
        {
            "component": component,
            "report": reports[component.pk],
            "label": _freshness_label(component.attached, reports[component.pk]),
            "interval": descriptions.format_duration(reports[component.pk].interval),
        }
        for component in loaded(device, "components")
    ]
    return render_to_string("devices/admin/freshness.html", {"rows": rows}, request)


@hooks.panels_below_device.provider(90)
def recent_status_changes(request: HttpRequest, device: Device) -> SafeString:
    """Return the panel of the newest status changes with their evidence."""
    context = {
        "rows": status_change_rows(status_changes.list_changes(device, limit=_HISTORY_SHOWN)),
        "more_url": reverse("admin:devices_device_presence", args=[device.pk]),
    }
    return render_to_string("devices/admin/status_history.html", context, request)


def status_change_rows(changes: list[Any]) -> list[dict[str, Any]]:
    """Return the rows of changes for `devices/admin/status_rows.html`."""
    return [
        {
            "change": change,
            "before": label_of(change.from_status),
            "label": label_of(change.to_status),
            "description": descriptions.describe_change(change),
            "suppression": descriptions.describe_suppression(change),
        }
        for change in changes
    ]


def badges(flapping: bool, in_maintenance: bool) -> list[SafeString]:
    """Return the badges beside a device's status."""
    shown = [(_("flapping"), "warning")] * flapping + [(_("maintenance"), "info")] * in_maintenance
    return [coloured(text, colour) for text, colour in shown]


def _overview(device: Any) -> overview.PresenceOverview:
    """Return the device's overview, computed once for all panels of a page."""
    if not hasattr(device, "overview"):
        device.overview = overview.overview_of(device, timezone.now())
    return device.overview


def _months(device: Device, now: datetime) -> list[dict[str, Any]]:
    """Return this month and the last one, in the current time zone's calendar."""
    today = timezone.localtime(now)
    months = status_changes.recent_months(
        today.year, today.month, 2, ZoneInfo(timezone.get_current_timezone_name()), now
    )
    figures = status_changes.monthly_availability(device, months)
    return [_month_in_words(month.name, known) for month, known in zip(months, figures, strict=True)]


def _month_in_words(name: str, known: availability.Availability) -> dict[str, Any]:
    between = known.mean_time_between_failures_seconds
    return {
        "name": name,
        "percent": "–" if known.percent is None else percentage(known.percent),
        "outages": known.outages,
        "longest": descriptions.format_duration(known.longest_outage_seconds) if known.outages else "–",
        "between": "–" if between is None else descriptions.format_duration(between),
        "known": descriptions.format_duration(known.known_seconds),
    }


def percentage(percent: float) -> str:
    """Return the percentage with three decimals, never rounded up to 100."""
    shown = min(percent, 99.999) if percent < 100 else percent
    return f"{shown:.3f}".rstrip("0").rstrip(".") + " %"


def _freshness_label(attached: bool, report: freshness.ComponentReport) -> SafeString:
    if not attached:
        return coloured(_("not attached"), "neutral")
    return coloured(report.freshness.label, FRESHNESS_COLOURS[report.freshness])
