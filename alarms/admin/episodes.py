"""The list of alarms, the page of one with its transitions, and the panel of a device's open alarms."""

from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RangeDateTimeFilter
from unfold.decorators import display

from alarms.models import AlarmEpisode, AlarmRule
from alarms.services import actions
from alarms.services.descriptions import describe
from devices import hooks
from devices.admin import tenant_admin
from devices.admin.base import TenantModelAdmin
from devices.admin.roles import may, person
from devices.admin.site import page_of
from devices.api.visibility import selector_of
from devices.models import Device
from devices.services.visibility import narrow
from tenants.admin.base import ReadOnly, coloured
from tenants.api.views.base import DeviceScope
from tenants.infrastructure.hooks import NavigationGroup
from tenants.services.roles import Role

_COLOURS = {"info": "neutral", "warning": "warning", "minor": "warning", "major": "danger", "critical": "danger"}
_SHOWN = 20
_TRANSITIONS_SHOWN = 200


def open_alarms(request: HttpRequest) -> QuerySet[AlarmEpisode]:
    """Return the open alarms of the devices that the user can see."""
    rows = AlarmEpisode.objects.filter(ended_at=None, retracted_at=None).select_related("rule", "device")
    return narrow(rows, selector_of(request), "device")


def severity_label(severity: str) -> SafeString:
    """Return the severity as a coloured label."""
    names = dict(AlarmEpisode._meta.get_field("severity").flatchoices)
    return coloured(names.get(severity, severity), _COLOURS.get(severity, "neutral"))


def value_in_words(value: float | None, unit: str) -> str:
    """Return a value with its unit."""
    return "–" if value is None else f"{value:.10g} {unit}".strip()


@admin.register(AlarmEpisode, site=tenant_admin)
class AlarmEpisodeAdmin(ReadOnly, TenantModelAdmin):
    """The alarms: view and acknowledge."""

    device_scope: ClassVar = DeviceScope.DEVICES
    device_path = "device"
    list_display: ClassVar = [
        *("started_at", "severity_column", "state", "rule", "device_link", "component", "metric", "value_column"),
        *("ended_at", "late_column", "acknowledged_by"),
    ]
    list_filter: ClassVar = [
        ("state", ChoicesDropdownFilter),
        ("severity", ChoicesDropdownFilter),
        "late",
        ("started_at", RangeDateTimeFilter),
    ]
    list_filter_submit = True
    list_select_related: ClassVar = ["rule", "device"]
    search_fields: ClassVar = ["rule__name", "device__name", "component"]
    actions: ClassVar = ["acknowledge_selected"]
    fields: ClassVar = [
        *("rule", "rule_version", "device_link", "component", "metric", "severity_column", "state", "value_column"),
        *("started_at", "ended_at", "late_column", "suppressed_by", "acknowledged_at", "acknowledged_by", "note"),
        *("shelved_until", "retracted_at", "history"),
    ]
    readonly_fields: ClassVar = fields

    def has_acknowledge_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may acknowledge."""
        return may(request, Role.OPERATOR)

    @admin.action(description=_("Acknowledge the selected alarms"), permissions=["acknowledge"])
    def acknowledge_selected(self, request: HttpRequest, queryset: QuerySet[AlarmEpisode]) -> None:
        count = 0
        for episode in queryset:
            try:
                actions.acknowledge(episode, note="", acting_user=person(request))
                count += 1
            except ValidationError:  # it has ended
                continue
        text = ngettext("%(count)d alarm is acknowledged.", "%(count)d alarms are acknowledged.", count)
        messages.success(request, text % {"count": count})

    @display(description=_("severity"), ordering="severity")
    def severity_column(self, episode: AlarmEpisode) -> SafeString:
        return severity_label(episode.severity)

    @display(description=_("value"))
    def value_column(self, episode: AlarmEpisode) -> str:
        return value_in_words(episode.value, episode.unit)

    @display(description=_("late"), ordering="late")
    def late_column(self, episode: AlarmEpisode) -> str:
        """Return a word for the few that are late; a cross at all others would look like a fault."""
        return str(_("late")) if episode.late else "–"

    @display(description=_("device"), ordering="device")
    def device_link(self, episode: AlarmEpisode) -> SafeString | str:
        """Return a link to the device's page."""
        if episode.device is None:
            return "–"
        return format_html('<a class="gw-link" href="{}">{}</a>', page_of(episode.device.pk), episode.device)

    @display(description=_("history"))
    def history(self, episode: AlarmEpisode) -> SafeString:
        """Return the table of the transitions, the newest first."""
        rows = episode.transitions.order_by("-at", "-rank", "-rank_value", "-id")[:_TRANSITIONS_SHOWN]
        shown = [{"transition": row, "text": describe(row)} for row in rows]
        return render_to_string("alarms/admin/history.html", {"rows": shown})


@hooks.panels_above_device.provider(3)
def alarms_of_device(request: HttpRequest, device: Device) -> SafeString:
    """Render the open alarms of the device; nothing where there is none."""
    rows = open_alarms(request).filter(device=device).order_by("-started_at")[:_SHOWN]
    shown = [
        {
            "alarm": alarm,
            "severity": severity_label(alarm.severity),
            "value": value_in_words(alarm.value, alarm.unit),
            "url": reverse("admin:alarms_alarmepisode_change", args=[alarm.pk]),
        }
        for alarm in rows
    ]
    if not shown:
        return SafeString("")
    more_url = f"{reverse('admin:alarms_alarmepisode_changelist')}?{urlencode({'q': device.name})}"
    return render_to_string("alarms/admin/open_alarms.html", {"rows": shown, "more_url": more_url}, request)


hooks.tenant_navigation.register(
    NavigationGroup(_("Alarms"), ((AlarmEpisode, "notifications_active"), (AlarmRule, "rule"))), order=25
)
