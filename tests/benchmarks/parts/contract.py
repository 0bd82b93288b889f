"""`python -m tests.benchmarks contract`: what validation and normalization cost a message. Needs no server."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    help = "Measures validation and normalization of a message, beside a plain way that must say the same."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); it needs no server

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--devices", type=int, default=100_000, help="specifications to measure the memory of")
        parser.add_argument("--repeats", type=int, default=25)
        parser.add_argument("--json", action="store_true", help="print JSON instead of lines")

    def handle(self, *args: Any, **options: Any) -> None:
        from tests.benchmarks import contract

        figures = contract.run(devices=options["devices"], repeats=options["repeats"])
        if options["json"]:
            self.stdout.write(json.dumps(figures, indent=2))
            return
        for name, case in figures["cases"].items():
            self.stdout.write(
                f"{name.replace('_', ' ')}: {case['microseconds']} µs a message "
                f"(a plain way: {case['plain_microseconds']} µs)"
            )
        memory = figures["memory"]
        self.stdout.write(f"{memory['devices']} devices: {memory['megabytes']} MB of specifications")
