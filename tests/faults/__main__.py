"""`python -m tests.faults`: the fault matrix on servers of its own, one row after the other.

It starts servers of its own, before the settings are read.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "platform"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from config.environment import var_dir
from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = "Plays faults at load and compares PostgreSQL with a ledger of what the broker acknowledged."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rate", type=float, default=1000.0, help="messages a second")
        parser.add_argument("--seconds", type=float, default=60.0, help="of load in each row")
        parser.add_argument("--tenants", type=int, default=10)
        parser.add_argument("--devices", type=int, default=50, help="of each tenant")
        parser.add_argument("--rows", default="", help="their names, with commas between them; all without it")
        parser.add_argument("--no-report", action="store_true", help="leave docs/reliability.md as it is")
        parser.add_argument("--report", action="store_true", help="write also into it what single rows gave")
        parser.add_argument("--logs", default="", help="where the processes' logs are kept when a row fails")

    def handle(self, *args: Any, **options: Any) -> None:
        def say(text: str) -> None:
            self.stderr.write(text)

        kept = Path(options["logs"] or var_dir() / "faults")
        with own_servers("postgres", "valkey", "openbao", "mosquitto", on_progress=say) as stack:
            # They need the settings, which need the servers.
            from tests.faults import report, run
            from tests.faults.rows import ROWS
            from tests.faults.setup import make_setup

            names = [name.strip() for name in options["rows"].split(",") if name.strip()]
            if unknown := [name for name in names if name not in ROWS]:
                raise CommandError(f"No such row: {', '.join(unknown)}. There are: {', '.join(ROWS)}.")
            setup = make_setup(
                stack,
                rate=options["rate"],
                seconds=options["seconds"],
                tenants=options["tenants"],
                devices=options["devices"],
                say=say,
            )

            def table(outcomes: Sequence[run.RowResult]) -> str:
                return report.table(
                    outcomes,
                    rate=options["rate"],
                    seconds=options["seconds"],
                    tenants=options["tenants"],
                    devices=options["tenants"] * options["devices"],
                )

            def note(outcomes: Sequence[run.RowResult]) -> None:
                kept.mkdir(parents=True, exist_ok=True)
                (kept / "table.md").write_text(table(outcomes) + "\n", encoding="utf-8")

            outcomes = run.play_all(setup, names, say, note)
            if any(outcome.passed is False for outcome in outcomes):
                shutil.copytree(stack.var / "log", kept, dirs_exist_ok=True)
                say(f"The logs are in {kept}")
        text = table(outcomes)
        self.stdout.write(text)
        # Some rows alone are not a report of the matrix: they replace their lines in the report of an earlier run.
        if names and options["report"]:
            report.write(report.replace_rows(report.read(), outcomes, seconds=options["seconds"]))
        elif not (names or options["no_report"]):
            report.write(text)
        if failed := [outcome.row.name for outcome in outcomes if outcome.passed is False]:
            raise CommandError(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    Command().run_from_argv(["tests", "faults", *sys.argv[1:]])
