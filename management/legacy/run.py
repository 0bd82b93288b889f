"""An import from beginning to end: a dry run of the whole, then the import."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from django.db import connection, transaction
from django_tenants.utils import schema_context

from devices.domain.specs import DeviceSpec
from devices.services.specs.loader import load_specs
from telemetry.services.legacy_import import LegacyRowValidator

from . import fleet, record
from .context import Context, Options
from .dump import CsvFile, DumpError, find
from .record import Progress, RecordImporter, RowReader
from .report import Report
from .tables import TELEMETRY_DATA


class ProblemsFound(Exception):
    """The report lists problems to correct; nothing was written."""


class ImportRunning(Exception):
    """Another import into the tenant is running."""


class _RolledBack(Exception):
    """The end of a dry run, which rolls back."""


def dry_run(options: Options, report: Report, progress: Progress) -> None:
    """Report what an import would do, and the problems to correct, without writing anything."""
    context, specs = _dry_run_fleet(options, report)
    path = find(options.directory, TELEMETRY_DATA)
    if path is not None and options.telemetry and not report.problems:
        validator = LegacyRowValidator(options.tenant.schema_name, record.specs_of(specs))
        with _reporting_dump_errors(report):
            record.dry_run(path, _reader(context), validator, report.table(TELEMETRY_DATA.name), progress)


def run(options: Options, report: Report, progress: Progress) -> None:
    """Import. Raises ProblemsFound when the dry run finds problems, ImportRunning, and SecretsUnavailable."""
    checked = Report()
    _dry_run_fleet(options, checked)
    if checked.problems:
        report.replace(checked)
        raise ProblemsFound
    context = Context(options, report, is_rehearsal=False)
    schema = options.tenant.schema_name
    with schema_context(schema), _tenant_lock(schema):
        fleet.import_fleet(context)
        path = find(options.directory, TELEMETRY_DATA)
        if path is not None and options.telemetry:
            with _reporting_dump_errors(report):
                table = report.table(TELEMETRY_DATA.name)
                RecordImporter(schema, path, _reader(context), table, progress).run(again=options.again)


def _dry_run_fleet(options: Options, report: Report) -> tuple[Context, dict[UUID, DeviceSpec]]:
    """Import the fleet, read it, and roll back."""
    context, specs = Context(options, report, is_rehearsal=True), {}
    try:
        with schema_context(options.tenant.schema_name), transaction.atomic():
            with _reporting_dump_errors(report):
                fleet.import_fleet(context)
            specs = load_specs(set(context.uuids.values()))
            raise _RolledBack
    except _RolledBack:
        # The rollback has also reset the search path.
        connection.set_schema_to_public()  # type: ignore[attr-defined]  # the tenants' backend has it
    return context, specs


def _reader(context: Context) -> Callable[[CsvFile], RowReader]:
    return lambda file: RowReader(file, context.uuids, context.options.time_zone)


@contextmanager
def _reporting_dump_errors(report: Report) -> Iterator[None]:
    """Report a file that cannot be read as a problem."""
    try:
        yield
    except DumpError as error:
        report.table(error.problem.file.split(".")[0]).fail(error.problem, rows=0)


@contextmanager
def _tenant_lock(schema: str) -> Iterator[None]:
    """Lock the tenant against another import; the lock ends with this process."""
    name = f"import_legacy:{schema}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtext(%s))", [name])
        if not cursor.fetchone()[0]:
            raise ImportRunning
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(hashtext(%s))", [name])
