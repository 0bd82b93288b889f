"""What belongs to the whole fleet: which device is whose, and the messages that are nobody's."""

from typing import ClassVar

from django.contrib import admin
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import display

from tenants.models import DeviceRoute, UnroutedMessage

from . import payloads
from .base import LongList, ReadOnly, coloured
from .navigation import Group
from .overview import reason_in_words
from .site import console


@admin.register(DeviceRoute, site=console)
class DeviceRouteAdmin(ReadOnly, LongList, ModelAdmin):
    """Every device of the platform with its tenant."""

    list_display: ClassVar = ["device_uuid", "tenant", "created_at"]
    list_select_related: ClassVar = ["tenant"]
    list_filter: ClassVar = ["tenant"]
    search_fields: ClassVar = ["device_uuid"]
    search_help_text = _("UUID of a device")


@admin.register(UnroutedMessage, site=console)
class UnroutedMessageAdmin(ReadOnly, LongList, ModelAdmin):
    """Messages that could be given to no tenant, with the reason."""

    list_display: ClassVar = ["reason_label", "topic", "detail", "times", "last_received_at"]
    list_filter: ClassVar = ["reason"]
    search_fields: ClassVar = ["topic"]
    search_help_text = _("part of a topic")
    fields: ClassVar = [
        "reason_label",
        "detail",
        "topic",
        "times",
        "first_received_at",
        "last_received_at",
        "readable_payload",
    ]
    readonly_fields: ClassVar = fields

    @display(description=_("reason"), ordering="reason")
    def reason_label(self, message: UnroutedMessage) -> SafeString:
        return coloured(reason_in_words(message), "warning")

    @display(description=_("payload"))
    def readable_payload(self, message: UnroutedMessage) -> SafeString:
        return payloads.render(message.payload)


console.groups.append(
    Group(20, _("Fleet"), ((DeviceRoute, "router"), (UnroutedMessage, "unsubscribe"))),
)
