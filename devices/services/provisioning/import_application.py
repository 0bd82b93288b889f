"""Application of a table's rows, as a dry run or with changes, in the current schema."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from import_export.results import RowResult

from devices.services import audit
from devices.services.provisioning.registration import IssuedCredentials
from tenants.infrastructure.spreadsheets import TableRow
from tenants.services import quotas
from tenants.services.quotas import QuotaName

from .import_resource import DeviceResource

NEW, UPDATED, UNCHANGED, ERROR = "new", "updated", "unchanged", "error"
_KINDS = {
    RowResult.IMPORT_TYPE_NEW: NEW,
    RowResult.IMPORT_TYPE_UPDATE: UPDATED,
    RowResult.IMPORT_TYPE_SKIP: UNCHANGED,
    RowResult.IMPORT_TYPE_INVALID: ERROR,
}


@dataclass(frozen=True, slots=True)
class CellError:
    """An error in a cell; `column` is empty for an error of the whole row."""

    column: str
    detail: str


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """The outcome of a row: new, updated (`changes` are columns), unchanged, or error."""

    row: int
    outcome: str
    uuid: UUID | None = None
    name: str = ""
    changes: Sequence[str] = ()
    problems: Sequence[CellError] = ()


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The outcomes of all rows in order, with the credentials of the registered devices."""

    rows: Sequence[ImportedRow]
    issued: Sequence[IssuedCredentials] = field(default=(), repr=False)

    def counts(self) -> dict[str, int]:
        """Return the number of rows by outcome."""
        counted = Counter(row.outcome for row in self.rows)
        return {name: counted[name] for name in (NEW, UPDATED, UNCHANGED, ERROR)}

    def refused(self) -> list[ImportedRow]:
        """Return the rows with errors."""
        return [row for row in self.rows if row.outcome == ERROR]


def dry_run(rows: Sequence[TableRow]) -> ImportResult:
    """Return the outcomes of the rows without changes; devices beyond the tenant's quota are errors."""
    return ImportResult(list(_within_quota(_import_rows(rows, _loaded(rows), dry_run=True))))


def _within_quota(rows: Iterable[ImportedRow]) -> Iterator[ImportedRow]:
    devices = quotas.use_of(QuotaName.DEVICES)
    left = devices.room
    for row in rows:
        if row.outcome == NEW and left is not None and devices.quota is not None:
            if left == 0:
                problem = CellError("", quotas.exceeded_text(devices.quota, devices.quota.value))
                yield ImportedRow(row.row, ERROR, name=row.name, problems=(problem,))
                continue
            left -= 1
        yield row


def apply_rows(rows: Sequence[TableRow], namespace: UUID, *, acting_user: audit.Actor) -> ImportResult:
    """Register and change the rows' devices, in the caller's transaction. Raises SecretsUnavailable."""
    resource = _loaded(rows, acting_user)
    outcomes = list(_import_rows(rows, resource, dry_run=False, namespace=namespace))
    return ImportResult(outcomes, resource.issued)


def _loaded(rows: Sequence[TableRow], acting_user: audit.Actor = None) -> DeviceResource:
    resource = DeviceResource()
    resource.load([row.cells for row in rows], acting_user=acting_user)
    return resource


def _import_rows(
    rows: Sequence[TableRow], resource: DeviceResource, *, dry_run: bool, namespace: UUID | None = None
) -> Iterator[ImportedRow]:
    for row in rows:
        new_uuid = uuid5(namespace, str(row.number)) if namespace else None
        result = resource.import_row(row.cells, None, dry_run=dry_run, row_number=row.number, new_uuid=new_uuid)
        if result.errors:
            # The library catches all errors: those of Vault and the database are raised again.
            raise result.errors[0].error
        yield _outcome(row, result)


def _outcome(row: TableRow, result: Any) -> ImportedRow:
    kind, device = _KINDS[result.import_type], result.instance
    if kind == ERROR:
        problems = _problems(result.validation_error)
        return ImportedRow(row.number, kind, name=row.cells.get("name", ""), problems=problems)
    return ImportedRow(row.number, kind, device.uuid, device.name, tuple(device.changes) if kind == UPDATED else ())


def _problems(error: ValidationError) -> list[CellError]:
    if not hasattr(error, "error_dict"):
        return [CellError("", text) for text in error.messages]
    return [
        CellError("" if column == NON_FIELD_ERRORS else column, text)
        for column, errors in error.error_dict.items()
        for text in ValidationError(errors).messages
    ]
