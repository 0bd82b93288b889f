"""The export of a tenant's data for its administrators."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from devices import hooks
from devices.admin.roles import may, person
from devices.api.access import session_stream_access
from devices.services import concurrency_limits
from telemetry.services.export.tenant_download import download
from tenants.admin.base import form_page
from tenants.infrastructure.concurrency import LimitReached, Operation
from tenants.services.concurrency import limit_reached_text
from tenants.services.roles import Role


def page(model_admin: Any, request: HttpRequest, back: str) -> HttpResponseBase:
    """Ask for confirmation, then return the file."""
    if request.method != "POST":
        return form_page(
            model_admin,
            request,
            None,
            title=_("Export everything"),
            lead=_(
                "A ZIP with all of this tenant's tables: devices, readings, messages, status changes, audit and the"
                " rest, with a manifest of counts and hashes. It contains no secrets. It can be large and take some"
                " time; an interrupted download is not a valid ZIP."
            ),
            submit=_("Download"),
            back=back,
        )
    access = session_stream_access(request, Role.ADMIN)
    try:
        lease = concurrency_limits.begin(Operation.EXPORT, user_id=access.user_id)
    except LimitReached as error:
        messages.error(request, limit_reached_text(error))
        return HttpResponseRedirect(back)
    return download(request, acting_user=person(request), may_read=access.may_watch, lease=lease)


@hooks.dashboard_panels.provider(95)
def everything(request: HttpRequest) -> SafeString:
    """Render the link to the export for administrators."""
    if not may(request, Role.ADMIN):
        return SafeString("")
    url = reverse("admin:telemetry_retentionsettings_export_everything", args=[1])
    return render_to_string("telemetry/admin/tenant_export.html", {"url": url}, request)
