"""The page of the daily message totals, and telemetry's group in the sidebar."""

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.utils import label_for_field
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from devices import hooks
from devices.admin import tenant_admin
from devices.admin.base import TenantModelAdmin
from telemetry.models import IngestTotals, LimitHit, Quarantined, Replay, RetentionSettings
from telemetry.services.queries.totals_chart import SEGMENTS, DayBar, build_totals_chart
from tenants.admin.base import ReadOnly
from tenants.infrastructure.hooks import NavigationGroup

_DAYS = 30
_FIRST_LABEL = 1


@admin.register(IngestTotals, site=tenant_admin)
class IngestTotalsAdmin(ReadOnly, TenantModelAdmin):
    """The daily totals; the headings show the sum received = stored + duplicates + quarantined + rate limited."""

    list_display: ClassVar = ["day", "received", "stored_", "duplicates_", "quarantined_", "rate_limited_"]
    fields: ClassVar = list_display
    readonly_fields: ClassVar = list_display
    list_before_template = "telemetry/admin/totals_chart.html"

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Return the list page."""
        return super().changelist_view(request, {**chart_context(), **(extra_context or {})})

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


def chart_context() -> dict[str, Any]:
    """Return the template context of the chart of the last days."""
    today = datetime.now(UTC).date()
    rows = IngestTotals.objects.filter(day__gt=today - timedelta(days=_DAYS), day__lte=today)
    chart = build_totals_chart(rows, today, _DAYS)
    legend = [{"name": name, "label": _label(name), "value": getattr(chart.totals, name)} for name in SEGMENTS]
    return {
        "chart": chart,
        "chart_bars": [_bar(bar, number) for number, bar in enumerate(reversed(chart.bars))],
        "chart_legend": legend,
        "chart_words": _in_words(chart.totals),
    }


def _bar(bar: DayBar, days_ago: int) -> dict[str, Any]:
    return {
        "left": bar.left,
        "width": bar.width,
        "middle": bar.left + bar.width / 2,
        "parts": bar.parts,
        "title": f"{bar.totals.day:%Y-%m-%d}: {_in_words(bar.totals)}",
        # Once a week, counted from today, and so that it does not reach over the edge.
        "label": f"{bar.totals.day:%m-%d}" if days_ago % 7 == _FIRST_LABEL else "",
    }


def _in_words(totals: IngestTotals) -> str:
    parts = " + ".join(f"{_label(name)} {getattr(totals, name)}" for name in SEGMENTS)
    return f"{_label('received')} {totals.received} = {parts}"


def _label(name: str) -> str:
    return str(label_for_field(name, IngestTotals))


_NAVIGATION = NavigationGroup(
    _("Messages"),
    (
        (Quarantined, "gpp_bad"),
        (Replay, "replay"),
        (IngestTotals, "functions"),
        (LimitHit, "speed"),
        (RetentionSettings, "auto_delete"),
    ),
)
hooks.tenant_navigation.register(_NAVIGATION, order=30)
