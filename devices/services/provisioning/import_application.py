"""What becomes of the rows of a table, in a dry run and for real. Everything is in the current schema."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from import_export.results import RowResult

from devices.services import audit
from devices.services.provisioning.registration import IssuedCredentials
from tenants.infrastructure.spreadsheets import TableRow

from .import_resource import DeviceResource

NEW, UPDATED, UNCHANGED, ERROR = "new", "updated", "unchanged", "error"
_OUTCOMES = {
    RowResult.IMPORT_TYPE_NEW: NEW,
    RowResult.IMPORT_TYPE_UPDATE: UPDATED,
    RowResult.IMPORT_TYPE_SKIP: UNCHANGED,
    RowResult.IMPORT_TYPE_INVALID: ERROR,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a cell; `column` is empty where it is the whole row."""

    column: str
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a row: new, updated (`changes` are columns), unchanged, or error."""

    row: int
    outcome: str
    uuid: UUID | None = None
    name: str = ""
    changes: Sequence[str] = ()
    problems: Sequence[Problem] = ()


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of all rows, in order, with the credentials of the devices that were registered."""

    rows: Sequence[Outcome]
    issued: Sequence[IssuedCredentials] = field(default=(), repr=False)

    def counts(self) -> dict[str, int]:
        """Outcome → rows."""
        counted = Counter(row.outcome for row in self.rows)
        return {name: counted[name] for name in (NEW, UPDATED, UNCHANGED, ERROR)}

    def refused(self) -> list[Outcome]:
        """The rows that have errors."""
        return [row for row in self.rows if row.outcome == ERROR]


def look_through(rows: Sequence[TableRow]) -> Outcomes:
    """What would become of the rows; nothing is changed."""
    return Outcomes(list(_go_through(rows, _loaded(rows), dry_run=True)))


def carry_out(rows: Sequence[TableRow], namespace: UUID, *, acting_user: audit.Actor) -> Outcomes:
    """Register and change the rows' devices. Call it in a transaction; raises SecretsUnavailable when Vault is away."""
    resource = _loaded(rows, acting_user)
    outcomes = list(_go_through(rows, resource, dry_run=False, namespace=namespace))
    return Outcomes(outcomes, resource.issued)


def _loaded(rows: Sequence[TableRow], acting_user: audit.Actor = None) -> DeviceResource:
    resource = DeviceResource()
    resource.load([row.cells for row in rows], acting_user=acting_user)
    return resource


def _go_through(
    rows: Sequence[TableRow], resource: DeviceResource, *, dry_run: bool, namespace: UUID | None = None
) -> Iterator[Outcome]:
    for row in rows:
        new_uuid = uuid5(namespace, str(row.number)) if namespace else None
        result = resource.import_row(row.cells, None, dry_run=dry_run, row_number=row.number, new_uuid=new_uuid)
        if result.errors:
            # The library catches everything: what is nobody's cell (Vault or the database is away) goes on.
            raise result.errors[0].error
        yield _outcome(row, result)


def _outcome(row: TableRow, result: Any) -> Outcome:
    kind, device = _OUTCOMES[result.import_type], result.instance
    if kind == ERROR:
        problems = _problems(result.validation_error)
        return Outcome(row.number, kind, name=row.cells.get("name", ""), problems=problems)
    return Outcome(row.number, kind, device.uuid, device.name, tuple(device.changes) if kind == UPDATED else ())


def _problems(error: ValidationError) -> list[Problem]:
    if not hasattr(error, "error_dict"):
        return [Problem("", text) for text in error.messages]
    return [
        Problem("" if column == NON_FIELD_ERRORS else column, text)
        for column, errors in error.error_dict.items()
        for text in ValidationError(errors).messages
    ]
