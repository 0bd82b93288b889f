"""The pages of replays: list, progress and cancellation."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_time
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from devices.admin import tenant_admin
from devices.admin.base import TenantModelAdmin
from devices.admin.roles import may, person
from devices.models import Device
from telemetry.models import Reason, Replay
from telemetry.services.quarantine import replays
from tenants.admin.base import ReadOnly, coloured, form_page, render_page
from tenants.services.roles import Role

_COLOURS = {
    Replay.State.WAITING: "neutral",
    Replay.State.RUNNING: "info",
    Replay.State.DONE: "success",
    Replay.State.CANCELLED: "warning",
}


@admin.register(Replay, site=tenant_admin)
class ReplayAdmin(ReadOnly, TenantModelAdmin):
    """The replays: progress and cancellation. They start from the quarantine's list."""

    list_display: ClassVar = [
        "__str__",
        "state_label",
        "selection",
        "progress",
        "stored",
        "created_by_label",
        "created_at",
    ]
    list_select_related: ClassVar = ["device"]
    actions_detail: ClassVar = ["cancel"]

    def has_cancel_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, Role.OPERATOR)

    @display(description=_("state"), ordering="state")
    def state_label(self, replay: Replay) -> SafeString:
        """Return the state with its colour."""
        return coloured(replay.get_state_display(), _COLOURS[Replay.State(replay.state)])

    @display(description=_("selection"))
    def selection(self, replay: Replay) -> str:
        """Return the selection in words."""
        return in_words(replays.selection_of(replay))

    @display(description=_("progress"))
    def progress(self, replay: Replay) -> str:
        return f"{replay.settled} / {replay.total}"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Render the progress. With `?part` only the part that the page refreshes while the replay runs."""
        replay = self._replay(request, object_id)
        if not self.has_view_permission(request, replay):
            raise PermissionDenied
        context = {
            "replay": replay,
            "label": self.state_label(replay),
            "refused": [(Reason(reason).label, times) for reason, times in sorted(replay.refused.items())],
            "may_cancel": replay.is_under_way and self.has_cancel_permission(request),
        }
        if "part" in request.GET:
            return render(request, "telemetry/admin/replay_progress.html", context)
        what = in_words(replays.selection_of(replay))
        title = _t("Replay %(replay)s") % {"replay": replay}
        return render_page(self, request, "telemetry/admin/replay.html", title=title, obj=replay, of=what, **context)

    @action(description=_("Cancel the replay"), icon="stop", permissions=["cancel"], variant=ActionVariant.DANGER)
    def cancel(self, request: HttpRequest, object_id: str) -> HttpResponse:
        replay = self._replay(request, object_id)
        if request.method != "POST":
            return form_page(
                self,
                request,
                None,
                title=_t("Cancel replay %(replay)s") % {"replay": replay},
                lead=_("Messages that were replayed stay replayed; the other messages stay in quarantine."),
                submit=_("Cancel the replay"),
                danger=True,
                back=page_of(replay),
                obj=replay,
            )
        if replays.cancel(replay, acting_user=person(request)):
            messages.success(request, _t("The replay is cancelled."))
        else:
            messages.warning(request, _t("The replay has already ended."))
        return redirect(page_of(replay))

    def _replay(self, request: HttpRequest, object_id: str) -> Replay:
        replay = self.get_object(request, object_id)
        if not isinstance(replay, Replay):
            raise Http404
        return replay


def page_of(replay: Replay) -> str:
    """Return the URL of the replay's page."""
    return reverse("admin:telemetry_replay_change", args=[replay.pk])


def begin(request: HttpRequest, selection: replays.ReplaySelection, back: str) -> HttpResponse:
    """Start a replay and redirect to its page, or back with the errors."""
    try:
        replay = replays.begin(selection, acting_user=person(request))
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
        return redirect(back)
    return redirect(page_of(replay))


def selection_in(query: QueryDict) -> replays.ReplaySelection:
    """Return the selection of the quarantine's list with this query."""
    device = query.get("device__id__exact", "")
    until = _moment(query, "last_received_at_to")
    reason = query.get("reason__exact", "")
    return replays.ReplaySelection(
        reason=reason if reason in Reason.values else "",
        device=Device.objects.filter(pk=device).first() if device.isdecimal() else None,
        topic=query.get("q", "").strip(),
        start=_moment(query, "last_received_at_from"),
        # The list's is inclusive.
        stop=until + timedelta(microseconds=1) if until else None,
    )


def in_words(selection: replays.ReplaySelection) -> str:
    """Return the selection as text."""
    words = []
    if selection.chosen:
        count = len(selection.chosen)
        words.append(ngettext("%(count)d selected message", "%(count)d selected messages", count) % {"count": count})
    if selection.reason:
        words.append(str(Reason(selection.reason).label))
    if selection.device is not None:
        words.append(str(selection.device))
    if selection.topic:
        words.append(_t("“%(text)s” in the topic") % {"text": selection.topic})
    if selection.start is not None:
        words.append(_t("received from %(time)s") % {"time": _shown(selection.start)})
    if selection.stop is not None:
        words.append(_t("received before %(time)s") % {"time": _shown(selection.stop)})
    return ", ".join(words) or _t("the whole quarantine")


def _shown(moment: datetime) -> str:
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S %Z}"


def _moment(query: QueryDict, name: str) -> datetime | None:
    try:
        day, at = parse_date(query.get(f"{name}_0", "")), parse_time(query.get(f"{name}_1", ""))
    except ValueError:
        return None
    return timezone.make_aware(datetime.combine(day, at)) if day and at else None
