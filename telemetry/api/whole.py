"""Everything that the tenant owns, as a file."""

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from devices.api.views.base import Role, TenantView
from devices.api.views.events import AnyAccepted
from devices.api.watching import watcher_of
from telemetry.services.export import tenant_audit
from telemetry.services.export.tenant_response import answer


class WholeExportView(TenantView):
    """The whole of a tenant, for its administrators and for keys that were issued for this."""

    role_to_read = Role.ADMIN
    only_admin_keys = True
    http_method_names = ("get",)
    # Refusals are JSON whatever the client asks for.
    content_negotiation_class = AnyAccepted
    renderer_classes = (JSONRenderer,)

    @extend_schema(operation_id="export_everything", responses={(200, "application/zip"): OpenApiTypes.BINARY})
    def get(self, request: Request) -> StreamingHttpResponse:
        """A ZIP with every table as NDJSON, and a manifest with counts and SHA-256.

        The transfer is broken off where it cannot be finished, and such a ZIP has no directory: no program opens it.
        """
        tenant_audit.record(self.acting_user)
        return answer(request._request, watcher_of(request, Role.ADMIN).may_watch)
