"""`python -m tests.benchmarks revisions`: has ingest become slower than it was? Two revisions in one run, as JSON.

It starts servers of its own, before the settings are read.
"""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tests.benchmarks.revisions import Asked, RevisionError, run


class Command(BaseCommand):
    help = "Measures ingest of two revisions of the repository in turn, and whether it is at least 0.95 of what it was."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        usual = Asked("")
        parser.add_argument("--base", required=True, help="the older revision: a commit, a branch or a tag")
        parser.add_argument("--head", default=usual.head, help="the newer one; by default what is checked out")
        parser.add_argument("--rounds", type=int, default=usual.rounds, help="how often each is measured")
        parser.add_argument("--devices", type=int, default=usual.devices)
        parser.add_argument("--messages", type=int, default=usual.messages, help="in a measurement")
        parser.add_argument("--json", action="store_true", help="all figures, and nothing else on the output")

    def handle(self, *args: Any, **options: Any) -> None:
        if min(options["rounds"], options["devices"], options["messages"]) < 1:
            raise CommandError("--rounds, --devices and --messages are numbers from 1.")
        wanted = Asked(*(options[name] for name in ("base", "head", "rounds", "devices", "messages")))
        try:
            figures = run(wanted, self.stderr.write)
        except RevisionError as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(figures, indent=2))
            return
        ratio, met = figures["ratios"]["messages_per_s"], "met" if figures["met"] else "NOT MET"
        self.stdout.write(f"messages/s, newer / older: {ratio} (goal ≥ {figures['at_least']}) {met}")
