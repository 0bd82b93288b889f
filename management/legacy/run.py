"""An import from beginning to end: rehearsed as a whole, and only then done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from django.db import connection, transaction
from django_tenants.utils import schema_context

from devices.domain.specs import DeviceSpec
from devices.services.specs.loader import load_specs
from telemetry.services.legacy_import import RecordJudge

from . import fleet, record
from .context import Context, Options
from .dump import CsvFile, DumpError, find
from .record import Progress, RecordImporter, RowReader
from .report import Report
from .tables import TELEMETRY_DATA


class NotMended(Exception):
    """The report says what is to be mended; nothing was written."""


class UnderWay(Exception):
    """Another import into the tenant is under way."""


class _Undo(Exception):
    """The end of a rehearsal."""


def rehearse(options: Options, report: Report, progress: Progress) -> None:
    """Report what an import would do and what is to be mended; nothing is written anywhere."""
    context, specs = _rehearse_fleet(options, report)
    path = find(options.directory, TELEMETRY_DATA)
    if path is not None and options.telemetry and not report.problems:
        judge = RecordJudge(options.tenant.schema_name, record.specs_of(specs))
        with _reporting(report):
            record.rehearse(path, _reader(context), judge, report.of(TELEMETRY_DATA.name), progress)


def run(options: Options, report: Report, progress: Progress) -> None:
    """Import. Raises NotMended where the rehearsal finds something to mend, UnderWay, and SecretsUnavailable."""
    rehearsed = Report()
    _rehearse_fleet(options, rehearsed)
    if rehearsed.problems:
        report.replace(rehearsed)
        raise NotMended
    context = Context(options, report, is_rehearsal=False)
    schema = options.tenant.schema_name
    with schema_context(schema), _alone(schema):
        fleet.import_fleet(context)
        path = find(options.directory, TELEMETRY_DATA)
        if path is not None and options.telemetry:
            with _reporting(report):
                table = report.of(TELEMETRY_DATA.name)
                RecordImporter(schema, path, _reader(context), table, progress).run(again=options.again)


def _rehearse_fleet(options: Options, report: Report) -> tuple[Context, dict[UUID, DeviceSpec]]:
    """The fleet imported, looked at, and undone."""
    context, specs = Context(options, report, is_rehearsal=True), {}
    try:
        with schema_context(options.tenant.schema_name), transaction.atomic():
            with _reporting(report):
                fleet.import_fleet(context)
            specs = load_specs(set(context.uuids.values()))
            raise _Undo
    except _Undo:
        # The rollback has undone the search path, too: have it set anew.
        connection.set_schema_to_public()  # type: ignore[attr-defined]  # the tenants' backend has it
    return context, specs


def _reader(context: Context) -> Callable[[CsvFile], RowReader]:
    return lambda file: RowReader(file, context.uuids, context.options.time_zone)


@contextmanager
def _reporting(report: Report) -> Iterator[None]:
    """A file that cannot be read as a whole is one of the things to mend."""
    try:
        yield
    except DumpError as error:
        report.of(error.problem.file.split(".")[0]).fail(error.problem, rows=0)


@contextmanager
def _alone(schema: str) -> Iterator[None]:
    """Hold the tenant against another import; released by itself when this process dies."""
    name = f"import_legacy:{schema}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtext(%s))", [name])
        if not cursor.fetchone()[0]:
            raise UnderWay
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(hashtext(%s))", [name])
