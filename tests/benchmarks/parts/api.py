"""`python -m tests.benchmarks api`: the processor time of requests of the API, as JSON; two revisions in one run.

It starts servers of its own, before the settings are read.
"""

import json
import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tests.benchmarks.revisions import RevisionError
from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = "Measures requests of the API on servers of its own, with the web server's settings of `make run`."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--base", default="", help="an older revision whose web server reads the same rows")
        parser.add_argument("--rounds", type=int, default=3, help="how often each request takes its turn")
        parser.add_argument("--devices", type=int, default=1000)
        parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
        parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
        parser.add_argument("--only", default="", help="names of requests, with commas")
        parser.add_argument("--no-load", action="store_true", help="without throughput and greedy clients")
        parser.add_argument("--json", action="store_true", help="all figures, and nothing else on the output")

    def handle(self, *args: Any, **options: Any) -> None:
        if min(options["rounds"], options["devices"]) < 1 or min(options["scale"], options["seconds"]) <= 0:
            raise CommandError("--rounds and --devices must be at least 1, --scale and --seconds greater than 0.")
        with own_servers("postgres", "valkey", on_progress=self.stderr.write):
            from tests.benchmarks.web.run import Asked, run

            only = tuple(name.strip() for name in options["only"].split(",") if name.strip())
            values = {name: options[name] for name in ("base", "rounds", "devices", "scale", "seconds")}
            logs = Path(os.environ["GWANJE_VAR"]) / "log"
            try:
                figures = run(Asked(**values, only=only, load=not options["no_load"]), logs, self.stderr.write)
            except RevisionError as error:
                raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(figures, indent=2))
            return
        for label in ("base", "head"):
            for name, found in figures.get(label, {}).get("requests", {}).items():
                goal = f" (goal ≤ {found['at_most']})" if "at_most" in found else ""
                self.stdout.write(f"{label} {name}: {found['ms']} ms, of it PostgreSQL {found['postgresql']}{goal}")
