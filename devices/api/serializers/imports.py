"""Tables of devices: what is uploaded, and what became of each row."""

from typing import Any, ClassVar

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.models import DeviceImport
from devices.services.provisioning.import_application import CellError, ImportedRow, ImportResult
from tenants.api.serializers.base import StrictSerializer
from tenants.api.serializers.table_formats import SeparatorParameters
from tenants.infrastructure.spreadsheets import CONTENT_TYPES
from tenants.infrastructure.text_encodings import ENCODINGS

from .inventory import CredentialsSerializer


class UploadSerializer(StrictSerializer):
    """A table of devices: a file (CSV or XLSX, as multipart/form-data), or its rows as JSON."""

    file = serializers.FileField(required=False, help_text="CSV or XLSX; the first row names columns.")
    encoding = serializers.ChoiceField(
        choices=ENCODINGS,
        required=False,
        help_text="Encoding of a CSV; recognized unless given, if it is UTF-8, UTF-16 or Korean CP949.",
    )
    rows = serializers.ListField(
        child=serializers.DictField(), required=False, help_text="Instead of a file: objects with the same names."
    )
    dry_run = serializers.BooleanField(default=False, help_text="Return the result of each row without changes.")
    skip_errors = serializers.BooleanField(
        default=False, help_text="Register the rows without errors although others have some."
    )


class DeviceExportParameters(SeparatorParameters):
    """The file of an export of devices."""

    format = serializers.ChoiceField(choices=tuple(CONTENT_TYPES), default="csv")


class ProblemSerializer(serializers.Serializer):
    """An error in a cell, or (without a column) in the whole row."""

    column = serializers.CharField()
    detail = serializers.CharField(help_text="Description of the error and its correction.")


class RowResultSerializer(serializers.Serializer):
    """The result of a row."""

    row = serializers.IntegerField(help_text="Its number in the file, where the heading is 1; of JSON, from 1.")
    outcome = serializers.ChoiceField(choices=("new", "updated", "unchanged", "error"))
    uuid = serializers.UUIDField(allow_null=True)
    name = serializers.CharField()
    changes = serializers.ListField(child=serializers.CharField(), help_text="Columns that an update changes.")
    errors = ProblemSerializer(many=True)  # type: ignore[assignment]  # the member's name


class CountsSerializer(serializers.Serializer):
    """Numbers of rows by result."""

    new = serializers.IntegerField()
    updated = serializers.IntegerField()
    unchanged = serializers.IntegerField()
    error = serializers.IntegerField()


class ImportResultSerializer(serializers.Serializer):
    """The result of a table, row by row. Credentials are shown in this answer only."""

    dry_run = serializers.BooleanField()
    id = serializers.IntegerField(allow_null=True, help_text="The import, at device-imports/; null of a dry run.")
    encoding = serializers.CharField(help_text="Encoding that a CSV was read in; empty for XLSX and JSON.")
    counts = CountsSerializer()
    results = RowResultSerializer(many=True)
    credentials = CredentialsSerializer(many=True)


class DeviceImportSerializer(serializers.ModelSerializer[DeviceImport]):
    """An import that was begun, and how far it is."""

    description = serializers.CharField(source="note", read_only=True, help_text="Reason for which the import waits.")
    processed = serializers.IntegerField(source="position", read_only=True, help_text="Rows that are done, of `total`.")
    created_by = serializers.CharField(source="created_by_label", read_only=True)
    counts = serializers.SerializerMethodField()
    errors = serializers.SerializerMethodField(  # type: ignore[assignment]  # the member's name
        help_text="The first rows that were refused."
    )
    credentials_remaining = serializers.IntegerField(
        source="to_hand_over", help_text="Devices whose credentials were not handed over: see credentials/."
    )

    class Meta:
        model = DeviceImport
        fields: ClassVar = [
            "id",
            "filename",
            "encoding",
            "state",
            "description",
            "total",
            "processed",
            "counts",
            "errors",
            "credentials_remaining",
            "created_at",
            "created_by",
            "finished_at",
        ]
        read_only_fields = fields

    @extend_schema_field(CountsSerializer())
    def get_counts(self, kept: DeviceImport) -> dict[str, int]:
        return {"new": kept.added, "updated": kept.updated, "unchanged": kept.unchanged, "error": kept.refused}

    @extend_schema_field(RowResultSerializer(many=True))
    def get_errors(self, kept: DeviceImport) -> list[Any]:
        empty: dict[str, Any] = {"outcome": "error", "uuid": None, "changes": []}
        return [{**empty, **problem} for problem in kept.problems]


class HandedOverSerializer(serializers.Serializer):
    """The credentials of devices that an import registered. Each is handed over once."""

    credentials_remaining = serializers.IntegerField(help_text="Devices whose credentials were not handed over yet.")
    credentials = CredentialsSerializer(many=True)


def row_data(row: ImportedRow) -> dict[str, Any]:
    """Return a row's result as RowResultSerializer describes it."""
    return {
        "row": row.row,
        "outcome": row.outcome,
        "uuid": str(row.uuid) if row.uuid else None,
        "name": row.name,
        "changes": list(row.changes),
        "errors": [{"column": problem.column, "detail": problem.detail} for problem in row.problems],
    }


def error_detail(found: ImportResult, most: int, *, is_file: bool) -> dict[str, Any]:
    """Return the errors of the first `most` rows: of a file as texts, of JSON by index and column."""
    rows = found.refused()[:most]
    if is_file:
        return {"file": [_in_file(row, problem) for row in rows for problem in row.problems]}
    return {"rows": {row.row - 1: _by_column(row) for row in rows}}


def _in_file(row: ImportedRow, problem: CellError) -> str:
    values = {"row": row.row, "column": problem.column, "detail": problem.detail}
    text = _("Row %(row)d, column %(column)s: %(detail)s") if problem.column else _("Row %(row)d: %(detail)s")
    return text % values


def _by_column(row: ImportedRow) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in row.problems:
        found.setdefault(problem.column or "non_field_errors", []).append(problem.detail)
    return found
