"""The pages of the quarantine."""

from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter, RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from devices.admin import tenant_admin
from devices.admin.base import TenantModelAdmin
from devices.admin.roles import may
from devices.admin.site import page_of
from devices.models import Device
from telemetry.models import Quarantined, SuppressedMessages
from telemetry.models.quarantine import DEFERRED
from telemetry.services.quarantine import replays
from telemetry.services.storage.suppression import source_of
from tenants.admin import payloads
from tenants.admin.base import ReadOnly, coloured, form_page
from tenants.services.roles import Role

from .replays import begin, in_words, selection_in

_SUPPRESSED_SHOWN = 10


def _list_url() -> str:
    return reverse("admin:telemetry_quarantined_changelist")


@admin.register(Quarantined, site=tenant_admin)
class QuarantinedAdmin(ReadOnly, TenantModelAdmin):
    """The quarantined messages: view and replay. The platform replays deferred ones automatically."""

    list_display: ClassVar = ["reason_label", "detail", "topic", "device", "metric", "count", "last_received_at"]
    list_filter: ClassVar = [
        ("reason", ChoicesDropdownFilter),
        ("device", AutocompleteSelectFilter),
        ("last_received_at", RangeDateTimeFilter),
    ]
    list_before_template = "telemetry/admin/suppressed.html"
    actions: ClassVar = ["replay_selected"]
    actions_list: ClassVar = ["replay_listed"]
    list_filter_submit = True
    list_select_related: ClassVar = ["device"]
    search_fields: ClassVar = ["topic"]
    search_help_text = _("Search by part of a topic")
    fields: ClassVar = [
        "reason_label",
        "detail",
        "topic",
        "device_link",
        "metric",
        "count",
        "more_like_it",
        "first_received_at",
        "last_received_at",
        "readable_payload",
    ]
    readonly_fields: ClassVar = fields

    def has_replay_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may replay."""
        return may(request, Role.OPERATOR)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Render the list with the suppressed messages of the filtered reason and device."""
        selection = selection_in(request.GET)
        suppressed = SuppressedMessages.objects.all()
        if selection.reason:
            suppressed = suppressed.filter(reason=selection.reason)
        if selection.device is not None:
            suppressed = suppressed.filter(device=selection.device)
        shown = list(suppressed[:_SUPPRESSED_SHOWN])
        names = Device.objects.in_bulk([one.device_id for one in shown if one.device_id])
        rows = [{"suppressed": one, "device": names.get(one.device_id)} for one in shown]
        answer = super().changelist_view(request, {"suppressed": rows, **(extra_context or {})})
        # The action replays the messages that the list shows.
        for item in (getattr(answer, "context_data", None) and answer.context_data.get("actions_list")) or ():
            item["path"] = f"{item['path']}?{request.GET.urlencode()}"
        return answer

    # --- replaying ----------------------------------------------------------------------------------------------

    @admin.action(description=_("Replay the selected messages"), permissions=["replay"])
    def replay_selected(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse:
        query = request.GET.urlencode()
        if request.POST.get("select_across") == "1":
            return redirect(f"{reverse('admin:telemetry_quarantined_replay_listed')}?{query}")
        chosen = tuple(queryset.order_by("pk").values_list("pk", flat=True))
        return begin(request, replays.ReplaySelection(chosen=chosen), f"{_list_url()}?{query}")

    @action(
        description=_("Replay"), url_path="replay", icon="replay", permissions=["replay"], variant=ActionVariant.PRIMARY
    )
    def replay_listed(self, request: HttpRequest) -> HttpResponse:
        """Replay all messages that the list shows under its filters."""
        if not self.has_replay_permission(request):
            raise PermissionDenied
        selection, back = selection_in(request.GET), f"{_list_url()}?{request.GET.urlencode()}"
        if request.method == "POST":
            return begin(request, selection, back)
        count = selection.rows().count()
        lead = ngettext(
            "%(count)d message (%(which)s) passes through the pipeline again. It is stored if it is valid now;"
            " otherwise it stays in quarantine with its current reason. Messages with a bad signature are never"
            " replayed.",
            "%(count)d messages (%(which)s) pass through the pipeline again. Valid messages are stored; the others stay"
            " in quarantine with their current reasons. Messages with a bad signature are never replayed.",
            count,
        )
        return form_page(
            self,
            request,
            None,
            title=_t("Replay the quarantine"),
            lead=lead % {"count": count, "which": in_words(selection)},
            submit=_("Replay"),
            back=back,
        )

    @display(description=_("similar messages"))
    def more_like_it(self, row: Quarantined) -> str:
        """Return the number of suppressed messages of its device, or of its source and all unknown sources."""
        suppressed = SuppressedMessages.objects.filter(reason=row.reason, device=row.device)
        if row.device is None:
            suppressed = suppressed.filter(source__in=["", source_of(row.topic)])
        more = suppressed.aggregate(total=Sum("count"))["total"]
        if not more:
            return "–"
        return ngettext(
            "%(more)d more was counted but not stored", "%(more)d more were counted but not stored", more
        ) % {"more": more}

    @display(description=_("reason"), ordering="reason")
    def reason_label(self, row: Quarantined) -> SafeString:
        """Return the reason with its colour."""
        # Deferred messages are not refused: the platform replays them automatically.
        return coloured(row.get_reason_display(), "info" if row.reason in DEFERRED else "danger")

    @display(description=_("device"))
    def device_link(self, row: Quarantined) -> SafeString | str:
        """Return a link to the device's page."""
        if row.device is None:
            return "–"
        return format_html('<a class="gw-link" href="{}">{}</a>', page_of(row.device.pk), row.device)

    @display(description=_("payload"))
    def readable_payload(self, row: Quarantined) -> SafeString:
        """Return the payload as text, or as hexadecimal."""
        return payloads.render(row.payload)
