"""Device routes and unrouted messages of all tenants, on the console."""

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from tenants.infrastructure import hooks
from tenants.models import DeviceRoute, PreregisteredDevice, RouteCandidate, UnroutedMessage, User

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
    actions_detail: ClassVar = ["release"]

    def has_decide_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user can decide disputes."""
        return may_decide(request)

    @action(description=_("Release the UUID"), icon="undo", permissions=["decide"], variant=ActionVariant.DANGER)
    def release(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Remove the route, after a confirmation: another tenant can register and prove the UUID."""
        route = get_object_or_404(DeviceRoute, pk=object_id)
        back = reverse("admin:tenants_deviceroute_changelist")
        if request.method != "POST":
            return form_page(
                self,
                request,
                None,
                title=_t("Release %(uuid)s") % {"uuid": route.device_uuid},
                lead=_(
                    "The tenant loses the UUID: messages of the device are stored for staff until a tenant proves it."
                    " The device and its readings stay in the tenant, marked as disputed."
                ),
                submit=_("Release"),
                danger=True,
                back=back,
                obj=route,
            )
        user = _person(request)
        hooks.uuid_release.first()(str(route.device_uuid), user.pk, user.get_username())
        self.log_change(request, route, f"Released from {route.tenant}.")
        messages.success(request, _t("%(uuid)s has been released.") % {"uuid": route.device_uuid})
        return redirect(back)


@admin.register(RouteCandidate, site=console)
class RouteCandidateAdmin(ReadOnly, LongList, ModelAdmin):
    """Registrations of UUIDs that their tenants have not proven; disputes are those whose UUID has a route."""

    list_display: ClassVar = ["device_uuid", "tenant", "owner", "created_at"]
    list_select_related: ClassVar = ["tenant"]
    list_filter: ClassVar = ["tenant"]
    search_fields: ClassVar = ["device_uuid"]
    search_help_text = _("UUID of a device")
    fields: ClassVar = ["device_uuid", "tenant", "owner", "created_at"]
    readonly_fields: ClassVar = fields
    actions_detail: ClassVar = ["confirm"]

    @display(description=_("proven by"))
    def owner(self, candidate: RouteCandidate) -> str:
        """Return the tenant that has proven the UUID; a hyphen where none has."""
        return getattr(candidate, "owner_name", None) or "-"

    def get_queryset(self, request: HttpRequest) -> QuerySet[RouteCandidate]:
        """Return the candidates, each with the tenant that has proven its UUID."""
        routes = DeviceRoute.objects.filter(pk=OuterRef("device_uuid")).values("tenant__name")
        return super().get_queryset(request).annotate(owner_name=Subquery(routes[:1]))

    def has_decide_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user can decide disputes."""
        return may_decide(request)

    @action(description=_("Confirm the tenant"), icon="verified", permissions=["decide"], variant=ActionVariant.PRIMARY)
    def confirm(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Give the UUID to this tenant, after a confirmation; a tenant that has proven it loses it."""
        candidate = get_object_or_404(RouteCandidate.objects.select_related("tenant"), pk=object_id)
        back = reverse("admin:tenants_routecandidate_changelist")
        if request.method != "POST":
            return form_page(
                self,
                request,
                None,
                title=_t("Confirm %(uuid)s") % {"uuid": candidate.device_uuid},
                lead=_t("The UUID becomes %(tenant)s's. A tenant that has proven it loses it, and keeps its readings.")
                % {"tenant": candidate.tenant},
                submit=_("Confirm"),
                danger=True,
                back=back,
                obj=candidate,
            )
        user, schema = _person(request), candidate.tenant.schema_name
        try:
            hooks.uuid_confirmation.first()(str(candidate.device_uuid), schema, user.pk, user.get_username())
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return redirect(back)
        self.log_change(request, candidate, f"Confirmed for {candidate.tenant}.")
        messages.success(request, _t("%(uuid)s has been confirmed.") % {"uuid": candidate.device_uuid})
        return redirect(back)


def _person(request: HttpRequest) -> User:
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


def may_decide(request: HttpRequest) -> bool:
    """Return whether the user can decide disputes over UUIDs: who can add tenants can."""
    return request.user.has_perm("tenants.add_tenant")


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
        (RouteCandidate, "rule"),
        (PreregisteredDevice, "qr_code"),
        (UnroutedMessage, "unsubscribe"),
    ),
)
hooks.console_navigation.register(_NAVIGATION, order=20)
