"""Readings and whole tenants as files."""

from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from devices.api.access import stream_access
from devices.api.views.base import AuditedView
from devices.services import concurrency_limits
from telemetry.api import parameters
from telemetry.api.series_selection import select_series, time_range
from telemetry.services.export import readings
from telemetry.services.export.tenant_download import download
from telemetry.services.queries import completeness
from tenants.api.errors import ErrorSerializer
from tenants.api.negotiation import JSONErrorsNegotiation
from tenants.api.views.base import DeviceScope, ParametersView
from tenants.infrastructure import table_formats
from tenants.infrastructure.concurrency import Operation
from tenants.infrastructure.database import current_schema
from tenants.services.roles import Role


class TenantExportView(AuditedView):
    """The export of a whole tenant, for its administrators and for keys with the scope admin."""

    resource = "export"
    role_to_read = Role.ADMIN
    http_method_names = ("get",)
    # Errors are JSON, whatever format the request accepts.
    content_negotiation_class = JSONErrorsNegotiation
    renderer_classes = (JSONRenderer,)

    @extend_schema(operation_id="tenant_export", responses={(200, "application/zip"): OpenApiTypes.BINARY})
    def get(self, request: Request) -> StreamingHttpResponse:
        """Return a ZIP with every table as NDJSON, and a manifest with counts and SHA-256 sums.

        If the export fails, the transfer is aborted; the incomplete ZIP has no directory, and no program opens it.
        """
        access = stream_access(request, Role.ADMIN)
        lease = concurrency_limits.begin(Operation.EXPORT, key_id=access.key_id, user_id=access.user_id)
        return download(request._request, acting_user=self.acting_user, may_read=access.may_watch, lease=lease)


class ReadingsExportView(ParametersView):
    """Readings as a file."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    http_method_names = ("get",)
    parameters_class = parameters.ExportParameters
    # Errors are JSON, whatever format the request accepts.
    content_negotiation_class = JSONErrorsNegotiation
    renderer_classes = (JSONRenderer,)

    @extend_schema(
        operation_id="readings_export",
        parameters=[parameters.ExportParameters],
        responses={
            (200, "text/csv"): OpenApiTypes.STR,
            (200, "application/x-ndjson"): OpenApiTypes.STR,
            404: ErrorSerializer,
            429: ErrorSerializer,
        },
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """Return all readings of the series as CSV or NDJSON, series after series, each in order of time.

        If the export fails, the transfer is aborted; a transfer that ends normally is complete. The last line of
        NDJSON contains `complete`. The header `Gwanje-Warnings` lists the readings that are known to be missing.

        429: too many exports of this key, person or tenant are in progress.
        """
        wanted, access = self.valid_parameters(), stream_access(request)
        requested, chosen = time_range(wanted), select_series(request, wanted)
        lease = concurrency_limits.begin(Operation.EXPORT, key_id=access.key_id, user_id=access.user_id)
        warnings = completeness.partial_reasons(
            [device.pk for device in chosen.devices],
            wanted.get("from"),
            requested.requested_stop,
            raw_from=requested.start,
        )
        form = wanted["format"]
        job = readings.ReadingsExportRequest(
            current_schema(),
            [readings.ExportedSeries(one, chosen.device_of(one)) for one in chosen.series],
            wanted.get("from"),
            requested.stop,
            form,
            warnings,
            table_formats.from_parameters(wanted),
        )
        is_async = isinstance(request._request, ASGIRequest)
        content: Any = (
            concurrency_limits.release_after(lease, readings.stream_readings(job, access.may_watch))
            if is_async
            else concurrency_limits.release_after_sync(lease, readings.readings_chunks(job))
        )
        kind = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
        answer = StreamingHttpResponse(content, content_type=kind)
        answer["Content-Disposition"] = f'attachment; filename="readings-{requested.stop:%Y%m%dT%H%M%SZ}.{form}"'
        if warnings:
            answer["Gwanje-Warnings"] = ", ".join(warning.code for warning in warnings)
        return answer
