"""`manage.py import_legacy dump/ --tenant demo --secrets secrets.csv`: imports the old server's tables."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from devices.services.vault.secret_store import SecretsUnavailable
from management.legacy import device_secrets, run
from management.legacy.context import Options
from management.legacy.dump import DumpError, find
from management.legacy.report import Report, show
from management.legacy.tables import SECRETS, TELEMETRY_DATA
from tenants.models import Tenant

_WIDTH = 120


class Command(BaseCommand):
    help = "Loads a dump of the old server's tables into a tenant. A second run resumes where the first stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="where the CSV files are")
        parser.add_argument("--tenant", required=True, metavar="SLUG")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="report the result and the errors, import nothing",
        )
        parser.add_argument("--secrets", default="", metavar="FILE", help="secrets of devices as CSV; - for stdin")
        parser.add_argument("--new-keys", action="store_true", help="new keys for devices whose secret is not given")
        parser.add_argument("--without-telemetry", action="store_true", help="everything but telemetry_data")
        parser.add_argument("--time-zone", default="", metavar="ZONE", help="of times that have no offset")
        parser.add_argument("--again", action="store_true", help="the telemetry from its beginning, after mending")
        parser.add_argument("--json", action="store_true", help="the report as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        report = Report()
        wanted = Options(
            directory=_directory(options["directory"]),
            tenant=_tenant(options["tenant"]),
            secrets=self._secrets(options["secrets"], report),
            new_keys=options["new_keys"],
            telemetry=not options["without_telemetry"],
            again=options["again"],
            time_zone=_zone(options["time_zone"]),
        )
        work = run.dry_run if options["dry_run"] else run.run
        failure = ""
        if not report.problems:
            try:
                with _progress(wanted.directory) as progress:
                    work(wanted, report, progress)
            except run.ProblemsFound:
                failure = "Nothing was imported: mend what is listed, and run it again."
            except run.ImportRunning:
                raise CommandError(f"Another import into {wanted.tenant.slug} is running.") from None
            except SecretsUnavailable as error:
                raise CommandError(f"{error}. Imported rows stay; run the command again when Vault answers.") from error
        self._show(report, as_json=options["json"])
        if failure or report.problems:
            raise CommandError(failure or "Not everything can be imported: the report says what is to be mended.")

    def _secrets(self, source: str, report: Report) -> device_secrets.KnownSecrets:
        if not source:
            return device_secrets.NONE
        table = report.table(SECRETS.name)
        try:
            return device_secrets.read(source, table)
        except DumpError as error:
            table.fail(error.problem, rows=0)
            return device_secrets.NONE

    def _show(self, report: Report, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
            return
        show(report, Console(file=cast("IO[str]", self.stdout), width=_WIDTH, no_color=not self.stdout.isatty()))


def _directory(path: Path) -> Path:
    if not path.is_dir():
        raise CommandError(f"There is no directory {path}.")
    return path


def _tenant(slug: str) -> Tenant:
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None:
        raise CommandError(f"There is no tenant {slug!r}; create it with create_tenant.")
    if tenant.state != Tenant.State.ACTIVE:
        raise CommandError(f"The tenant {tenant.slug} is {tenant.get_state_display()}.")
    return tenant


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise CommandError(f"{name!r} is not a time zone; use a name like Asia/Seoul.") from error


@contextmanager
def _progress(directory: Path) -> Iterator[Any]:
    """Show the telemetry's progress in bytes of its file; on a terminal only."""
    path = find(directory, TELEMETRY_DATA)
    columns = (TextColumn("telemetry_data"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("telemetry_data", total=path.stat().st_size if path else 0)
        yield lambda done: bar.update(task, completed=done)
