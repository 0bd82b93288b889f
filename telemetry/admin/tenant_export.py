"""The export of a tenant's data for its administrators."""

from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from devices import hooks
from devices.admin.roles import may, person
from devices.api.access import session_stream_access
from telemetry.services.export.tenant_download import download
from tenants.admin.base import form_page
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
    return download(request, acting_user=person(request), may_read=session_stream_access(request, Role.ADMIN).may_watch)


@hooks.dashboard_panels.provider(95)
def everything(request: HttpRequest) -> SafeString:
    """Render the link to the export for administrators."""
    if not may(request, Role.ADMIN):
        return SafeString("")
    url = reverse("admin:telemetry_retentionsettings_export_everything", args=[1])
    return render_to_string("telemetry/admin/tenant_export.html", {"url": url}, request)
