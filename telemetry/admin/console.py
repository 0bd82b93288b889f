"""Panels of telemetry on the console's first page: the message totals of all tenants."""

from typing import Any

from django.contrib.admin.utils import label_for_field
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString

from telemetry.models import IngestTotals
from telemetry.services.metrics_collector import COUNTERS, TENANT_METRICS, TenantCounters
from tenants.infrastructure import hooks
from tenants.infrastructure.tasks import enqueue
from tenants.models import Tenant

# Tenants with the most refused messages come first, so that the rows left out matter least.
SHOWN = 100
_NOT_TAKEN = slice(3, 5)  # quarantined and rate limited


@hooks.unrouted_replay.provider()
def queue_unrouted_replay() -> str:
    """Queue the replay of unrouted messages and return the task's id."""
    return enqueue("telemetry.services.quarantine.unrouted.replay_all")


@hooks.console_panels.provider(10)
def totals(request: HttpRequest) -> SafeString:
    """Render the totals of today and of all days, of all tenants together and of each."""
    figures = TENANT_METRICS.by_tenant()
    shown = sorted(figures, key=lambda slug: (-sum(figures[slug].today[_NOT_TAKEN]), -figures[slug].today[0], slug))
    pages = dict(Tenant.objects.filter(slug__in=shown[:SHOWN]).values_list("slug", "pk"))
    context = {
        "columns": [str(label_for_field(name, IngestTotals)) for name in COUNTERS],
        "all": _row(list(figures.values())),
        "rows": [_row([figures[slug]], slug, pages[slug]) for slug in shown[:SHOWN] if slug in pages],
        "left_out": max(0, len(shown) - SHOWN),
    }
    return render_to_string("telemetry/admin/console_totals.html", context, request)


def _row(counted: list[TenantCounters], slug: str = "", pk: int | None = None) -> dict[str, Any]:
    return {
        "slug": slug,
        "url": reverse("admin:tenants_tenant_change", args=[pk]) if pk is not None else "",
        "figures": [
            {"today": sum(one.today[number] for one in counted), "ever": sum(one.totals[number] for one in counted)}
            for number in range(len(COUNTERS))
        ],
    }
