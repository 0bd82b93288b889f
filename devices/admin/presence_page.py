"""The page of a device's status changes: filtered, paginated, with the ignored wills."""

from datetime import datetime, time, timedelta
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse, QueryDict
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from devices import hooks
from devices.models import Device, IgnoredWill
from devices.models.presence import Cause, Status
from devices.services.presence import descriptions, status_changes
from tenants.admin.base import render_page

from .presence_panels import status_change_rows
from .site import page_of, tenant_admin

SHOWN = 50
_IGNORED_SHOWN = 20
_ANY = [("", _("any"))]


def _day(label: Any) -> forms.DateField:
    return forms.DateField(label=label, required=False, widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}))


class StatusChangeFilter(forms.Form):
    """The filter of the status changes. Days are of the current time zone, both inclusive."""

    status = forms.ChoiceField(
        label=_("Changed to"), choices=[*_ANY, *Status.choices], required=False, widget=UnfoldAdminSelectWidget
    )
    cause = forms.ChoiceField(
        label=_("Cause"), choices=[*_ANY, *Cause.choices], required=False, widget=UnfoldAdminSelectWidget
    )
    since = _day(_("From"))
    until = _day(_("Until"))
    before = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1, widget=forms.HiddenInput)

    def narrowed(self) -> dict[str, Any]:
        """Return the arguments of `status_changes.list_changes`; an invalid field filters nothing."""
        self.is_valid()
        given = self.cleaned_data
        since, until = given.get("since"), given.get("until")
        return {
            "status": given.get("status", ""),
            "cause": given.get("cause", ""),
            "start": _midnight(since) if since else None,
            "stop": _midnight(until) + timedelta(days=1) if until else None,
        }


def presence_page(request: HttpRequest, device: Device) -> HttpResponse:
    """Return the page of the device's status changes, newest first."""
    form = StatusChangeFilter(request.GET)
    narrowed = form.narrowed()
    before = form.cleaned_data.get("before")
    changes = status_changes.list_changes(device, before=before, limit=SHOWN + 1, **narrowed)
    older = _address(request, before=changes[SHOWN - 1].pk) if len(changes) > SHOWN else ""
    return render_page(
        tenant_admin.get_model_admin(Device),
        request,
        "devices/admin/presence_page.html",
        title=_("Status changes"),
        obj=device,
        form=form,
        rows=status_change_rows(changes[:SHOWN]),
        ignored=_ignored(device, narrowed["start"], narrowed["stop"]),
        newest_url=_address(request, before=None) if before else "",
        older_url=older,
        back=page_of(device.pk),
    )


def _ignored(device: Device, start: datetime | None, stop: datetime | None) -> list[dict[str, Any]]:
    given = {"at__gte": start, "at__lt": stop}
    rows = IgnoredWill.objects.filter(device=device, **{name: value for name, value in given.items() if value})
    return [{"will": will, "description": descriptions.describe_ignored_will(will)} for will in rows[:_IGNORED_SHOWN]]


def _midnight(day: Any) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))


def _address(request: HttpRequest, *, before: int | None) -> str:
    query: QueryDict = request.GET.copy()
    query.pop("before", None)
    if before is not None:
        query["before"] = str(before)
    return "?" + query.urlencode()


hooks.device_pages.register(hooks.DevicePage(path="presence", name="presence", view=presence_page))
