"""The page of the tenant's limits, their use and their refusals; only staff can change limits."""

from typing import Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from devices import hooks
from devices.admin import tenant_admin
from devices.admin.base import TenantModelAdmin
from devices.admin.site import page_of
from telemetry.models import LimitHit
from telemetry.services.limits.overview import LimitUse, limits_now
from tenants.admin.base import ReadOnly
from tenants.services.limits import LABELS

_SOURCES = {"tenant": _("this tenant's own"), "plan": _("the plan's"), "default": _("default of the platform")}


@admin.register(LimitHit, site=tenant_admin)
class LimitHitAdmin(ReadOnly, TenantModelAdmin):
    """The daily refusals of each limit, below the limits."""

    list_display: ClassVar = ["day", "limit_in_words", "device_link", "count"]
    list_filter: ClassVar = ["day"]
    list_select_related: ClassVar = ["device"]
    list_before_template = "telemetry/admin/limits.html"
    fields: ClassVar = ["day", "limit_in_words", "device_link", "count"]
    readonly_fields: ClassVar = fields

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Return the list page."""
        return super().changelist_view(request, {**limits_context(), **(extra_context or {})})

    @display(description=_("limit"), ordering="limit")
    def limit_in_words(self, row: LimitHit) -> str:
        return f"{row.limit}: {LABELS[row.limit]}" if row.limit in LABELS else row.limit

    @display(description=_("device"))
    def device_link(self, row: LimitHit) -> SafeString | str:
        """Return a link to the device's page."""
        if row.device_id is None:
            return "–"
        if row.device is None:
            return _t("a removed device")
        return format_html('<a class="gw-link" href="{}">{}</a>', page_of(row.device.pk), row.device)


@hooks.dashboard_panels.provider(15)
def limits(request: HttpRequest) -> SafeString:
    """Render the limits if any is set, is nearly used up, or has refused a message today."""
    context = limits_context()
    if not any(row["is_set"] or row["is_near"] or row["limit"].refused_today for row in context["limits"]):
        return SafeString()
    context["more_url"] = reverse("admin:telemetry_limithit_changelist")
    return render_to_string("telemetry/admin/limits.html", context, request)


def limits_context() -> dict[str, Any]:
    """Return the template context of the table of limits."""
    rows = [_row(limit) for limit in limits_now()]
    return {"limits": rows, "near": [row["limit"] for row in rows if row["is_near"]]}


def _row(limit: LimitUse) -> dict[str, Any]:
    share = limit.share
    return {
        "limit": limit,
        "is_set": limit.value is not None and limit.source != "default",
        "source": _SOURCES[limit.source] if limit.value is not None else "",
        "percent": None if share is None else round(100 * min(1.0, share)),
        "is_near": limit.is_near,
    }
