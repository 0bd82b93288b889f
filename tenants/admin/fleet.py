"""Device routes and unrouted messages of all tenants, on the console."""

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from tenants.infrastructure import hooks
from tenants.models import DeviceRoute, PreregisteredDevice, UnroutedMessage

from . import payloads
from .base import LongList, ReadOnly, coloured, form_page
from .overview import reason_in_words
from .site import console


@admin.register(DeviceRoute, site=console)
class DeviceRouteAdmin(ReadOnly, LongList, ModelAdmin):
    """All devices of the platform with their tenants."""

    list_display: ClassVar = ["device_uuid", "tenant", "created_at"]
    list_select_related: ClassVar = ["tenant"]
    list_filter: ClassVar = ["tenant"]
    search_fields: ClassVar = ["device_uuid"]
    search_help_text = _("UUID of a device")


@admin.register(UnroutedMessage, site=console)
class UnroutedMessageAdmin(ReadOnly, LongList, ModelAdmin):
    """Messages that belong to no tenant, with the reason."""

    list_display: ClassVar = ["reason_label", "topic", "detail", "count", "last_received_at"]
    list_filter: ClassVar = ["reason"]
    search_fields: ClassVar = ["topic"]
    search_help_text = _("part of a topic")
    actions_list: ClassVar = ["replay"]
    fields: ClassVar = [
        "reason_label",
        "detail",
        "topic",
        "count",
        "first_received_at",
        "last_received_at",
        "readable_payload",
    ]
    readonly_fields: ClassVar = fields

    @display(description=_("reason"), ordering="reason")
    def reason_label(self, message: UnroutedMessage) -> SafeString:
        """Return the reason as a label."""
        return coloured(reason_in_words(message), "warning")

    def has_replay_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user can replay unrouted messages."""
        # Users who can add tenants can replay messages to them.
        return request.user.has_perm("tenants.add_tenant")

    @action(
        description=_("Replay to their tenants"), icon="replay", permissions=["replay"], variant=ActionVariant.PRIMARY
    )
    def replay(self, request: HttpRequest) -> HttpResponse:
        """Queue the replay of unrouted messages whose device has been registered."""
        back = reverse("admin:tenants_unroutedmessage_changelist")
        if request.method != "POST":
            return form_page(
                self,
                request,
                None,
                title=_("Replay unrouted messages to their tenants"),
                lead=_(
                    "Messages whose device has been registered since then are processed again and removed from this"
                    " list: they are stored in the tenant of the device, or in its quarantine with the reason."
                ),
                submit=_("Replay to their tenants"),
                back=back,
            )
        hooks.unrouted_replay.first()()
        messages.success(request, _t("A worker replays the messages. The result is shown under Background work."))
        return redirect(back)

    @display(description=_("payload"))
    def readable_payload(self, message: UnroutedMessage) -> SafeString:
        """Return the payload as HTML."""
        return payloads.render(message.payload)


_NAVIGATION = hooks.NavigationGroup(
    _("Fleet"),
    (
        (DeviceRoute, "router"),
        (PreregisteredDevice, "qr_code"),
        (UnroutedMessage, "unsubscribe"),
    ),
)
hooks.console_navigation.register(_NAVIGATION, order=20)
