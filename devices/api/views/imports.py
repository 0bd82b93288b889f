"""Devices in numbers: tables up, tables down, and the imports that workers do."""

from collections.abc import Iterable
from typing import Any, cast

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import ErrorDetail
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.access import stream_access
from devices.api.serializers import imports as shapes
from devices.api.serializers.inventory import credentials_data
from devices.api.visibility import visible_devices
from devices.models import DeviceImport
from devices.services import concurrency_limits
from devices.services.provisioning import import_application, import_files, import_jobs
from tenants.api.errors import ErrorSerializer
from tenants.api.negotiation import JSONParser
from tenants.api.serializers.base import refuse_body
from tenants.api.views.base import DeviceScope, ObjectsView, ParametersView, TenantView
from tenants.infrastructure import table_formats
from tenants.infrastructure.concurrency import Operation
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.spreadsheets import CONTENT_TYPES, TableFile
from tenants.services.roles import Role

from .base import AuditedView

_FORMAT = OpenApiParameter("format", enum=tuple(CONTENT_TYPES), default="csv")
_FILE = {(200, kind.partition(";")[0]): OpenApiTypes.BINARY for kind in CONTENT_TYPES.values()}


class ImportView(AuditedView):
    """Register devices by a table, with an error for each row that has one."""

    resource = "devices"
    role_to_read = role_to_write = Role.OPERATOR
    parser_classes = (MultiPartParser, JSONParser)

    @extend_schema(
        request={"multipart/form-data": shapes.UploadSerializer, "application/json": shapes.UploadSerializer},
        responses={
            200: shapes.ImportResultSerializer,
            202: shapes.DeviceImportSerializer,
            409: ErrorSerializer,
            503: ErrorSerializer,
        },
    )
    def post(self, request: Request) -> Response:
        """Register, change or (with `dry_run`) only check the devices of a table.

        Nothing is done while a row has an error, unless `skip_errors`. More than 100 rows are done by a worker (202):
        its progress, and then the credentials, are at device-imports/.
        """
        wanted = shapes.UploadSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        table, name = _table(given)
        if given["dry_run"]:
            return Response(_result(import_application.dry_run(table.rows), None, table.encoding, dry_run=True))
        try:
            kept, done = import_jobs.import_rows(
                table.rows,
                name,
                encoding=table.encoding,
                skip_errors=given["skip_errors"],
                acting_user=self.acting_user,
            )
        except import_jobs.HasErrors as error:
            detail = shapes.error_detail(error.found, import_jobs.MOST_PROBLEMS, is_file="file" in given)
            raise serializers.ValidationError(detail) from error
        if done is None:
            return Response(shapes.DeviceImportSerializer(kept).data, status.HTTP_202_ACCEPTED)
        return Response(_result(done, kept.pk, table.encoding, dry_run=False))


class DeviceExportView(ParametersView):
    """The tenant's devices as the table that can be imported again."""

    resource = "devices"
    device_scope = DeviceScope.DEVICES
    parameters_class = shapes.DeviceExportParameters

    @extend_schema(parameters=[shapes.DeviceExportParameters], responses=_FILE)
    def get(self, request: Request) -> HttpResponse:
        """Return all devices that the client can see, as CSV or XLSX."""
        wanted, access = self.valid_parameters(), stream_access(request)
        file_format, table_format = wanted["format"], table_formats.from_parameters(wanted)
        with concurrency_limits.begin(Operation.EXPORT, key_id=access.key_id, user_id=access.user_id):
            content = import_files.export_devices(file_format, visible_devices(request), table_format)
            return _file(content, "devices", file_format)


class ImportTemplateView(TenantView):
    """An empty table with the columns of an import and two examples."""

    resource = "devices"

    def known_parameters(self) -> Iterable[str]:
        """Return the names of the accepted query parameters."""
        return ("format",)

    @extend_schema(parameters=[_FORMAT], responses=_FILE)
    def get(self, request: Request) -> HttpResponse:
        """Return the template as CSV or XLSX."""
        file_format = _format(request)
        return _file(import_files.template(file_format), "devices-template", file_format)


class DeviceImportViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, AuditedView, ObjectsView, viewsets.GenericViewSet
):
    """Imports of devices, newest first."""

    resource = "devices"
    role_to_write = Role.OPERATOR
    http_method_names = ("get", "head", "post")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"
    queryset = DeviceImport.objects.exclude(state=DeviceImport.State.CHECKED).order_by("-id").defer("rows")
    serializer_class = shapes.DeviceImportSerializer

    def needed_scope(self, reading: bool) -> str:
        """Return the scope that an API key needs."""
        return "credentials:write" if self.action == "credentials" else super().needed_scope(reading)

    @extend_schema(request=None, responses={200: shapes.HandedOverSerializer, 503: ErrorSerializer})
    @action(detail=True, methods=["post"], pagination_class=None)
    def credentials(self, request: Request, id: Any) -> Response:  # noqa: A002 (the name in the URL)
        """Hand over the credentials of the next 1,000 devices that it registered. Each is handed over once."""
        kept = self.get_object()
        refuse_body(request)
        given = import_jobs.hand_over(kept, acting_user=self.acting_user)
        credentials = [credentials_data(issued) for _device, issued in given]
        return Response({"credentials_remaining": kept.to_hand_over, "credentials": credentials})


def _table(given: dict[str, Any]) -> tuple[TableFile, str]:
    if ("file" in given) == ("rows" in given):
        raise serializers.ValidationError(_("Send either 'file' or 'rows'."))
    if "rows" in given:
        if "encoding" in given:
            text = _("'encoding' applies to a file; JSON is always UTF-8.")
            raise serializers.ValidationError({"encoding": ErrorDetail(text, ErrorCode.INVALID_CHOICE)})
        return TableFile(import_files.check(given["rows"]), ""), ""
    file = cast("UploadedFile", given["file"])
    if (file.size or 0) > settings.IMPORT_MAX_BYTES:
        text = _("The file must not be larger than %(most)d bytes. Split it.") % {"most": settings.IMPORT_MAX_BYTES}
        raise serializers.ValidationError({"file": ErrorDetail(text, ErrorCode.TOO_LARGE)})
    return import_files.read_upload(file.read(), given.get("encoding", "")), file.name or ""


def _result(
    found: import_application.ImportResult, import_id: int | None, encoding: str, *, dry_run: bool
) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "id": import_id,
        "encoding": encoding,
        "counts": found.counts(),
        "results": [shapes.row_data(row) for row in found.rows],
        "credentials": [credentials_data(issued) for issued in found.issued],
    }


def _format(request: Request) -> str:
    file_format = request.query_params.get("format", "csv")
    if file_format not in CONTENT_TYPES:
        raise serializers.ValidationError(
            {
                "format": ErrorDetail(
                    _("%(value)r is not a valid format; use csv or xlsx.") % {"value": file_format},
                    ErrorCode.INVALID_CHOICE,
                )
            }
        )
    return file_format


def _file(content: bytes, name: str, file_format: str) -> HttpResponse:
    disposition = f'attachment; filename="{name}.{file_format}"'
    return HttpResponse(content, content_type=CONTENT_TYPES[file_format], headers={"Content-Disposition": disposition})
