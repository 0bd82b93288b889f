"""Panels of telemetry on the tenant's first page: today's message totals, and the newest refused messages."""

from datetime import UTC, datetime
from typing import Any

from django.contrib.admin.utils import label_for_field
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from devices import hooks
from telemetry.models import IngestTotals, Quarantined

_REFUSED_SHOWN = 8
# Field, colour where it is not 0, and the list behind it.
_COUNTED = (
    ("received", "", "ingesttotals"),
    ("stored", "success", "ingesttotals"),
    ("duplicates", "", "ingesttotals"),
    ("quarantined", "danger", "quarantined"),
    ("rate_limited", "warning", "ingesttotals"),
)


@hooks.dashboard_panels.provider(10)
def totals_today(request: HttpRequest) -> SafeString:
    """Render today's totals (UTC): received = stored + duplicates + quarantined + rate limited."""
    today = datetime.now(UTC).date()
    totals = IngestTotals.objects.filter(day=today).first() or IngestTotals(day=today)
    context = {"title": _("Messages today (UTC)"), "cards": [_card(totals, *counted) for counted in _COUNTED]}
    return render_to_string("gwanje/cards.html", context, request)


def _card(totals: IngestTotals, name: str, colour: str, listed: str) -> dict[str, Any]:
    return {
        "title": capfirst(str(label_for_field(name, IngestTotals))),
        "value": getattr(totals, name),
        "colour": colour if getattr(totals, name) else "",
        "url": reverse(f"admin:telemetry_{listed}_changelist"),
    }


@hooks.dashboard_panels.provider(50)
def newest_refused(request: HttpRequest) -> SafeString:
    """Render the newest quarantined messages."""
    rows = Quarantined.objects.select_related("device")[:_REFUSED_SHOWN]
    url = reverse("admin:telemetry_quarantined_changelist")
    context = {"rows": rows, "more_url": url, "title": _("Newest in quarantine"), "with_device": True}
    return render_to_string("telemetry/admin/refused.html", context, request)
