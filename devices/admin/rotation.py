"""Key rotations in the tenant's admin: start form, progress, and the actions on a running one."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from devices.models import HardwareModel, RotationCampaign, RotationMember
from devices.services.rotation import campaigns, tokens
from devices.services.rotation.selection import DeviceSelection, select
from tenants.admin.base import add_errors, coloured, form_page
from tenants.infrastructure.spreadsheets import csv_line
from tenants.infrastructure.table_formats import begin

from .base import TenantModelAdmin
from .keys import errors_as_messages
from .roles import person
from .site import tenant_admin

State, Member = RotationCampaign.State, RotationMember.State
_SHOWN = 50
_COLOURS: dict[str, str] = {
    State.RUNNING: "info",
    State.ENDING: "warning",
    State.ENDED: "success",
    State.ROLLING_BACK: "warning",
    State.ROLLED_BACK: "neutral",
}
_MEMBER_COLOURS: dict[str, str] = {
    Member.CONFIRMED: "success",
    Member.MISSED: "danger",
    Member.SENT: "info",
    Member.HANDED_OVER: "info",
    Member.ROLLING_BACK: "warning",
}


class SelectionForm(forms.Form):
    """The devices of a rotation, and its deadline."""

    name = forms.CharField(label=_("Name"), max_length=120, widget=UnfoldAdminTextInputWidget)
    marked = forms.BooleanField(
        label=_("Only keys marked for rotation"),
        required=False,
        help_text=_("Devices whose key may be known to others, for example devices of an old server."),
        widget=UnfoldBooleanSwitchWidget,
    )
    hardware_model = forms.ModelChoiceField(
        label=_("Hardware model"),
        queryset=HardwareModel.objects.all(),
        required=False,
        empty_label=_("any"),
        widget=UnfoldAdminSelectWidget,
    )
    search = forms.CharField(
        label=_("Search"),
        max_length=120,
        required=False,
        help_text=_("in the name, UUID or CPU serial"),
        widget=UnfoldAdminTextInputWidget,
    )
    deadline = forms.SplitDateTimeField(
        label=_("Deadline"),
        help_text=_("The old keys expire at this time, or earlier when every device signs with its new key."),
        widget=UnfoldAdminSplitDateTimeWidget,
    )
    at_deadline = forms.ChoiceField(
        label=_("At the deadline"),
        choices=RotationCampaign.AtDeadline.choices,
        help_text=_("Action for the old keys of devices that do not sign with their new keys yet."),
        widget=UnfoldAdminSelectWidget,
    )
    extend_days = forms.IntegerField(
        label=_("Days of extension"), min_value=1, max_value=90, widget=UnfoldAdminIntegerFieldWidget
    )

    def selection(self) -> DeviceSelection:
        """Return the criteria for devices."""
        given = self.cleaned_data
        return DeviceSelection(marked=given["marked"], hardware_model=given["hardware_model"], search=given["search"])


class DeadlineForm(forms.Form):
    """The form of another deadline."""

    deadline = forms.SplitDateTimeField(label=_("Deadline"), widget=UnfoldAdminSplitDateTimeWidget)


@admin.register(RotationCampaign, site=tenant_admin)
class RotationAdmin(TenantModelAdmin):
    """Rotations. Started, ended and rolled back by `devices.services.rotation.campaigns` only."""

    list_display: ClassVar = ["name", "shown_state", "counted", "deadline", "created_at", "created_by_label"]
    list_filter: ClassVar = ["state"]
    search_fields: ClassVar = ["name"]
    fields: ClassVar = [("at_deadline", "extended"), ("created_at", "created_by_label")]
    readonly_fields: ClassVar = ["at_deadline", "extended", "created_at", "created_by_label"]
    change_form_outer_before_template = "devices/admin/rotation.html"
    actions_detail: ClassVar = ["hand_over", "extend", {"title": _("More"), "items": ["end", "roll_back"]}]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may change."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may delete."""
        return False

    def has_decide_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request)

    @display(description=_("state"), ordering="state")
    def shown_state(self, campaign: RotationCampaign) -> SafeString:
        return _label(campaign)

    @display(description=_("progress"))
    def counted(self, campaign: RotationCampaign) -> str:
        return str(campaigns.progress(campaign))

    # --- starting -----------------------------------------------------------------------------------------

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        initial = {
            "deadline": timezone.localtime().replace(second=0, microsecond=0) + campaigns.ROLLBACK_OVERLAP,
            "extend_days": campaigns.ROLLBACK_OVERLAP.days,
        }
        form = SelectionForm(request.POST or None, initial=initial)
        if form.is_valid() and (campaign := self._start(request, form)) is not None:
            messages.success(request, _t("The rotation has started. Keys are issued in the background."))
            return redirect(_page_of(campaign))
        return form_page(
            self,
            request,
            form,
            title=_("Rotate keys"),
            lead=_("Issues new keys for all %(number)d devices, or for the devices selected here.")
            % {"number": select(DeviceSelection()).count()},
            submit=_("Start"),
            back=reverse("admin:devices_rotationcampaign_changelist"),
        )

    def _start(self, request: HttpRequest, form: SelectionForm) -> RotationCampaign | None:
        given = form.cleaned_data
        try:
            return campaigns.start(
                name=given["name"],
                selection=form.selection(),
                deadline=given["deadline"],
                at_deadline=given["at_deadline"],
                extend_days=given["extend_days"],
                acting_user=person(request),
            )
        except ValidationError as error:
            add_errors(form, error)
        return None

    # --- page of a rotation -----------------------------------------------------------------------------------------

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        """Return the page of one object."""
        campaign = kwargs.get("obj")
        if isinstance(campaign, RotationCampaign):
            context |= _page(request, campaign)
        return super().render_change_form(request, context, *args, **kwargs)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Return the actions that are possible in the present state."""
        campaign = RotationCampaign.objects.filter(pk=object_id).first()
        shown = super().get_actions_detail(request, object_id)
        if campaign is not None and campaign.state == State.RUNNING:
            return shown
        handing = campaign is not None and campaign.state in (State.ENDING, State.ENDED)
        return [item for item in shown if handing and item.action_name.endswith("hand_over")]

    # --- actions -----------------------------------------------------------------------------

    @action(description=_("Hand over keys"), icon="badge", permissions=["decide"], url_path="hand-over")
    def hand_over(self, request: HttpRequest, object_id: str) -> HttpResponse:
        campaign = self._campaign(request, object_id)
        if request.method != "POST":
            return self._ask(
                request,
                campaign,
                title=_t("Hand over keys of %(rotation)s") % {"rotation": campaign},
                lead=_(
                    "For devices that no MQTT command reaches: a file with one single-use token per device, which"
                    " unwraps its key once. Anyone with the file can read the keys. The tokens are shown only "
                    "once."
                ),
                submit=_("Download the tokens"),
            )
        with errors_as_messages(request):
            return _as_file(campaign, tokens.hand_over(campaign, _missed(campaign), acting_user=person(request)))
        return redirect(_page_of(campaign))

    @action(description=_("Extend"), icon="update", permissions=["decide"])
    def extend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        campaign = self._campaign(request, object_id)
        form = DeadlineForm(request.POST or None, initial={"deadline": timezone.localtime(campaign.deadline)})
        if form.is_valid():
            try:
                campaigns.extend(campaign, form.cleaned_data["deadline"], acting_user=person(request))
            except ValidationError as error:
                add_errors(form, error)
            else:
                messages.success(request, _t("The deadline has been changed."))
                return redirect(_page_of(campaign))
        title = _t("Change the deadline of %(rotation)s") % {"rotation": campaign}
        return self._ask(request, campaign, form=form, title=title, submit=_("Change"))

    @action(description=_("Expire the old keys now"), permissions=["decide"], variant=ActionVariant.DANGER)
    def end(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._decide(
            request,
            object_id,
            campaigns.end,
            title=_("Expire the old keys of %(rotation)s"),
            lead=_(
                "Messages of devices without their new keys are rejected from then on, until their keys are "
                "installed by hand."
            ),
            submit=_("Expire the old keys"),
        )

    @action(description=_("Roll back"), permissions=["decide"], url_path="roll-back", variant=ActionVariant.DANGER)
    def roll_back(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._decide(
            request,
            object_id,
            campaigns.roll_back,
            title=_("Roll back %(rotation)s"),
            lead=_(
                "The old keys become valid again. Devices with a new key receive a command to return to the old "
                "key; their new key stays valid until they have returned, for at most a week."
            ),
            submit=_("Roll back"),
        )

    def _decide(self, request: HttpRequest, object_id: str, change: Any, *, title: Any, **options: Any) -> HttpResponse:
        campaign = self._campaign(request, object_id)
        if request.method != "POST":
            return self._ask(request, campaign, title=title % {"rotation": campaign}, danger=True, **options)
        with errors_as_messages(request):
            change(campaign, acting_user=person(request))
            messages.success(request, _t("%(rotation)s has been changed.") % {"rotation": campaign})
        return redirect(_page_of(campaign))

    def _ask(
        self, request: HttpRequest, campaign: RotationCampaign, form: forms.Form | None = None, **options: Any
    ) -> HttpResponse:
        return form_page(self, request, form, obj=campaign, back=_page_of(campaign), **options)

    def _campaign(self, request: HttpRequest, object_id: str) -> RotationCampaign:
        campaign = self.get_object(request, object_id)
        if campaign is None:
            raise Http404
        return campaign


def _page(request: HttpRequest, campaign: RotationCampaign) -> dict[str, Any]:
    """Return the context of the page: progress, counts, and members."""
    wanted = request.GET.get("state", "")
    members: QuerySet[RotationMember] = campaign.members.select_related("device", "credential").order_by("device__name")
    if wanted in Member.values:
        members = members.filter(state=wanted)
    rows = [
        {
            "member": member,
            "label": _member_label(member),
            "url": reverse("admin:devices_device_change", args=[member.device_id]),
        }
        for member in members[: _SHOWN + 1]
    ]
    counts = {row["state"]: row["number"] for row in _counts(campaign)}
    return {
        "progress": campaigns.progress(campaign),
        "state_label": _label(campaign),
        "rows": rows[:_SHOWN],
        "more": len(rows) > _SHOWN,
        "shown": _SHOWN,
        "wanted": wanted,
        "choices": [(state, label, counts[state]) for state, label in Member.choices if state in counts],
    }


def _member_label(member: RotationMember) -> SafeString:
    """Return the member's state; a device that has used its new key counts as confirmed before a worker records it."""
    used = member.credential is not None and member.credential.in_use_since is not None
    under_way = member.state in (Member.ISSUED, Member.SENT, Member.HANDED_OVER)
    state = Member.CONFIRMED if used and under_way else Member(member.state)
    return coloured(state.label, _MEMBER_COLOURS.get(state, "neutral"))


def _counts(campaign: RotationCampaign) -> Sequence[Any]:
    return list(campaign.members.order_by().values("state").annotate(number=Count("pk")))


def _missed(campaign: RotationCampaign) -> list[Any]:
    """Return the devices that missed the deadline, once the old keys have expired; before that, an empty list."""
    if campaign.state == State.RUNNING:
        return []
    left = campaign.members.filter(state=Member.MISSED, credential__revoked_at=None).exclude(credential=None)
    return list(left.order_by("device__name").values_list("device__uuid", flat=True)[: tokens.MAX_TOKENS])


def _as_file(campaign: RotationCampaign, handed: Sequence[tokens.WrappedKey]) -> HttpResponse:
    """Return the tokens as a CSV response; no copy is stored for a second request."""
    answer = HttpResponse(
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="key-tokens-{campaign.pk}.csv"',
            "Cache-Control": "no-store",
        },
    )
    answer.write(begin())
    answer.write(csv_line(["device", "name", "kid", "token", "expires_at"]))
    for token in handed:
        expires_at = token.expires_at.isoformat(timespec="seconds")
        answer.write(csv_line([token.uuid, token.name, token.kid, token.token, expires_at]))
    return answer


def _label(campaign: RotationCampaign) -> SafeString:
    return coloured(campaign.get_state_display(), _COLOURS[campaign.state])


def _page_of(campaign: RotationCampaign) -> str:
    return reverse("admin:devices_rotationcampaign_change", args=[campaign.pk])
