"""What the steps of an import share."""

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

from . import given
from .dump import CsvFile, Row, required, rows
from .report import Problem, Report, TableReport
from .tables import Table


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was told. `time_zone` is of times without an offset; `again`: the record from its beginning."""

    directory: Path
    tenant: Tenant
    secrets: given.GivenSecrets = given.NONE
    new_keys: bool = False
    telemetry: bool = True
    again: bool = False
    time_zone: tzinfo | None = None


@dataclass(slots=True)
class Context:
    """An import, or its rehearsal, which writes neither to Vault nor to the broker and is undone."""

    options: Options
    report: Report
    is_rehearsal: bool
    models: dict[str, HardwareModel] = field(default_factory=dict)  # by the old id
    types: dict[str, ComponentType] = field(default_factory=dict)
    uuids: dict[str, UUID] = field(default_factory=dict)  # by the old id, and by the UUID as text

    def read(self, table: Table) -> list[Row]:
        """The table's rows that can be read; the others are reported. Raises DumpError."""
        return list(self.each(table))

    def each(self, table: Table) -> Iterator[Row]:
        """The same, one by one."""
        report = self.report.of(table.name)
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
        """The device that the row names; where there is none in the dump, that is reported."""
        uuid = self.uuids.get(row["device_id"].strip().lower())
        if uuid is None:
            words = f"{row['device_id'][:80]!r} is no device of devices.csv: add it there, or leave the row out."
            self.fail(table, row, "device_id", words)
        return uuid

    def fail(self, table: Table, row: Row, column: str, message: str) -> None:
        """Report what is wrong with a row."""
        self.report.of(table.name).fail(problem(table, row, column, message))


def problem(table: Table, row: Row, column: str, message: str) -> Problem:
    """What is wrong with a row."""
    return Problem(f"{table.name}.csv", row.line, column, message)


@contextmanager
def row_of(context: Context, table: Table, row: Row) -> Iterator[TableReport]:
    """A transaction for a row; what the models refuse in it is reported, and undone."""
    report = context.report.of(table.name)
    try:
        with transaction.atomic():
            yield report
    except ValidationError as error:
        context.fail(table, row, "", words_of(error))


def words_of(error: ValidationError) -> str:
    """All that the error says, with the fields that it is of."""
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    said: Sequence[str] = [
        " ".join(messages) if field == "__all__" else f"{field}: {' '.join(messages)}"
        for field, messages in error.message_dict.items()
    ]
    return " ".join(said)
