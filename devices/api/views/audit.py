"""The audit of the tenant: its administrators, and keys with the scope admin."""

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api import parameters
from devices.api.access import stream_access
from devices.api.serializers.audit import AuditEntrySerializer, AuditPageSerializer
from devices.services import audit_search, concurrency_limits
from tenants.api import cursors
from tenants.api.errors import ErrorSerializer
from tenants.api.views.base import CursorPageView, ParametersView
from tenants.infrastructure import table_formats
from tenants.infrastructure.concurrency import Operation
from tenants.services.roles import Role


class AuditView(CursorPageView):
    """The audit entries."""

    role_to_read = Role.ADMIN
    resource = "audit"
    parameters_class = parameters.AuditParameters
    row_class = AuditEntrySerializer

    @extend_schema(
        operation_id="audit_list", parameters=[parameters.AuditParameters], responses={200: AuditPageSerializer}
    )
    def get(self, request: Request) -> Response:
        """Return the changes in this tenant, newest first."""
        wanted = self.valid_parameters()
        limit, cursor = wanted.pop("limit"), wanted.pop("cursor", None)
        scope = f"audit:{sorted(wanted.items())}"
        after = cursors.decode_after(scope, cursor, int)
        rows = list(audit_search.entries(wanted, after)[: limit + 1])
        return self.page(rows, limit, scope, lambda row: [row.at.isoformat(), row.pk])


class AuditExportView(ParametersView):
    """The audit entries as a file."""

    role_to_read = Role.ADMIN
    resource = "audit"
    parameters_class = parameters.AuditExportParameters

    @extend_schema(
        operation_id="audit_export",
        parameters=[parameters.AuditExportParameters],
        responses={(200, "text/csv"): OpenApiTypes.STR, 429: ErrorSerializer},
    )
    def get(self, request: Request) -> HttpResponse:
        """Return the changes as CSV, newest first. At most 100,000: narrow the range for more."""
        wanted, access = self.valid_parameters(), stream_access(request, Role.ADMIN)
        with concurrency_limits.begin(Operation.EXPORT, key_id=access.key_id, user_id=access.user_id):
            filters = {name: value for name, value in wanted.items() if name not in ("separator", "timezone")}
            content = audit_search.as_csv(audit_search.entries(filters), table_formats.from_parameters(wanted))
        disposition = {"Content-Disposition": 'attachment; filename="audit.csv"'}
        return HttpResponse(content, content_type="text/csv; charset=utf-8", headers=disposition)
