"""The context that the steps of an import share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction

from devices.models import ComponentType, HardwareModel
from tenants.models import Tenant

from . import device_secrets
from .dump import CsvFile, Row, required, rows
from .report import Problem, Report, TableReport
from .tables import Table


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command. `time_zone` applies to times without an offset; `again` restarts the record."""

    directory: Path
    tenant: Tenant
    secrets: device_secrets.KnownSecrets = device_secrets.NONE
    new_keys: bool = False
    telemetry: bool = True
    again: bool = False
    time_zone: tzinfo | None = None


@dataclass(slots=True)
class Context:
    """An import, or its dry run, which writes neither to Vault nor to the broker and is rolled back."""

    options: Options
    report: Report
    is_rehearsal: bool
    models: dict[str, HardwareModel] = field(default_factory=dict)  # by the old id
    types: dict[str, ComponentType] = field(default_factory=dict)
    uuids: dict[str, UUID] = field(default_factory=dict)  # by the old id, and by the UUID as text

    def read(self, table: Table) -> list[Row]:
        """Return the table's readable rows and report the others. Raises DumpError."""
        return list(self.each(table))

    def each(self, table: Table) -> Iterator[Row]:
        """Yield the table's readable rows and report the others. Raises DumpError."""
        report = self.report.table(table.name)
        path = required(self.options.directory, table)
        file = CsvFile(path, path.name)
        try:
            for row in rows(file, table):
                report.read += 1
                if isinstance(row, Problem):
                    report.fail(row)
                else:
                    yield row
        finally:
            file.close()

    def device_of(self, table: Table, row: Row) -> UUID | None:
        """Return the row's device; report a device that is not in the dump."""
        uuid = self.uuids.get(row["device_id"].strip().lower())
        if uuid is None:
            words = f"{row['device_id'][:80]!r} is not a device of devices.csv; add it there, or remove the row."
            self.fail(table, row, "device_id", words)
        return uuid

    def fail(self, table: Table, row: Row, column: str, message: str) -> None:
        """Report a problem of a row."""
        self.report.table(table.name).fail(problem(table, row, column, message))


def problem(table: Table, row: Row, column: str, message: str) -> Problem:
    """Return a problem of a row."""
    return Problem(f"{table.name}.csv", row.line, column, message)


@contextmanager
def row_of(context: Context, table: Table, row: Row) -> Iterator[TableReport]:
    """Run a transaction for a row; report and roll back what the models refuse."""
    report = context.report.table(table.name)
    try:
        with transaction.atomic():
            yield report
    except ValidationError as error:
        context.fail(table, row, "", messages_of(error))


def messages_of(error: ValidationError) -> str:
    """Return the error's messages with their fields."""
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    texts: Sequence[str] = [
        " ".join(messages) if field == "__all__" else f"{field}: {' '.join(messages)}"
        for field, messages in error.message_dict.items()
    ]
    return " ".join(texts)
