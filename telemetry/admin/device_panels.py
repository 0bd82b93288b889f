"""Panels of telemetry on a device's page: latest values, charts, refused and missing messages."""

from datetime import timedelta
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from devices import hooks
from devices.models import Device
from telemetry.models import Quarantined
from telemetry.services.queries import readings
from telemetry.services.queries.charts import DeviceChart, device_charts
from telemetry.services.queries.missing_sequences import SequenceCompleteness, find_missing_sequences
from telemetry.services.queries.query_budget import QueryTooExpensive, time_limited_queries
from tenants.infrastructure.concurrency import LimitReached
from tenants.services.concurrency import limit_reached_text

_REFUSED_SHOWN = 5
_GAPS_SHOWN = 10
# As the address says it (?range=7d) → what the charts show. The first unless the request names another.
_RANGES = {
    "24h": (timedelta(days=1), gettext_lazy("24 hours")),
    "7d": (timedelta(days=7), gettext_lazy("7 days")),
    "30d": (timedelta(days=30), gettext_lazy("30 days")),
    "1y": (timedelta(days=365), gettext_lazy("1 year")),
}


@hooks.panels_above_device.provider(10)
def last_values(request: HttpRequest, device: Device) -> SafeString:
    """Render the newest value of every metric, with its unit at the time of measurement."""
    rows = [{"latest": latest, "value": in_words(latest.value)} for latest in readings.latest_values(device)]
    context = {"rows": rows, "messages_url": reverse("admin:devices_device_messages", args=[device.pk])}
    return render_to_string("telemetry/admin/last_values.html", context, request)


@hooks.panels_above_device.provider(20)
def charts(request: HttpRequest, device: Device) -> SafeString:
    """Render a chart for each series of numbers over the last day, week, month or year."""
    requested = request.GET.get("range", "")
    chosen = requested if requested in _RANGES else next(iter(_RANGES))
    too_much, refusal, lines = False, "", []
    try:
        with time_limited_queries():
            lines = device_charts(device, timezone.now(), _RANGES[chosen][0])
    except QueryTooExpensive:
        too_much = True
    except LimitReached as error:
        refusal = limit_reached_text(error)
    context = {
        "charts": [{"series": chart.series, "data": _data(chart)} for chart in lines],
        "ranges": [{"key": key, "label": label, "chosen": key == chosen} for key, (_span, label) in _RANGES.items()],
        "too_much": too_much,
        "refusal": refusal,
        "shown": bool(lines) or too_much or bool(refusal) or bool(requested) or device.series.exists(),
    }
    return render_to_string("telemetry/admin/charts.html", context, request)


@hooks.panels_below_device.provider(70)
def refused(request: HttpRequest, device: Device) -> SafeString:
    """Render the device's newest refused messages."""
    rows = Quarantined.objects.filter(device=device)[:_REFUSED_SHOWN]
    url = f"{reverse('admin:telemetry_quarantined_changelist')}?device__id__exact={device.pk}"
    context = {"rows": rows, "more_url": url, "title": _("Refused messages"), "with_device": False}
    return render_to_string("telemetry/admin/refused.html", context, request)


@hooks.panels_below_device.provider(75)
def gaps(request: HttpRequest, device: Device) -> SafeString:
    """Render the missing sequence numbers of the device."""
    context = {
        "rows": find_missing_sequences([device.pk], limit=_GAPS_SHOWN),
        "whole": SequenceCompleteness.read(device),
    }
    return render_to_string("telemetry/admin/missing_sequences.html", context, request)


def in_words(value: readings.ReadingValue) -> str:
    """Return a value as text: numbers with at most ten digits, words for booleans."""
    if isinstance(value, bool):
        return _("true") if value else _("false")
    if isinstance(value, float):
        return f"{value:.10g}"
    return value


def _data(chart: DeviceChart) -> dict[str, Any]:
    return {
        "times": chart.times,
        "values": chart.values,
        "from": chart.start,
        "to": chart.stop,
        "unit": chart.series.unit,
        "time_label": _("time"),
        "value_label": chart.series.metric,
    }
