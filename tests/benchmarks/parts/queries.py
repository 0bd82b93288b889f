"""`python -m tests.benchmarks queries`: what reading costs on five million readings, as JSON or in words.

It starts servers of its own, before the settings are read.
"""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = "Measures queries on servers of its own, beside the same readings in one table of rows with names."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--readings", type=int, default=5_000_000)
        parser.add_argument("--json", action="store_true", help="all figures, and nothing else on the output")

    def handle(self, *args: Any, **options: Any) -> None:
        def say(text: str) -> None:
            self.stderr.write(text)

        with own_servers("postgres", "valkey", on_progress=say):
            from tests.benchmarks import queries

            figures = queries.run(readings=options["readings"], say=say)
        if options["json"]:
            self.stdout.write(json.dumps(figures, indent=2))
            return
        for goal in figures["goals"]:
            wanted = f"≥ {goal['at_least']}" if "at_least" in goal else f"≤ {goal['at_most']}"
            met = "met" if goal["met"] else "NOT MET"
            self.stdout.write(f"{goal['goal']}: {goal['value']} (goal {wanted}) {met}")
