"""`python -m tests.benchmarks presence`: what presence costs with 100,000 devices, as JSON.

It starts servers of its own, before the settings are read.
"""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = "Measures passes of the health checker on servers of its own, beside a scan of a key for each device."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--devices", type=int, default=100_000)
        parser.add_argument("--expiring", type=int, default=20_000)
        parser.add_argument("--wills", type=int, default=100)
        parser.add_argument("--rate", type=int, default=200, help="other messages a second beside the wills")

    def handle(self, *args: Any, **options: Any) -> None:
        def say(text: str) -> None:
            self.stderr.write(text)

        with own_servers("postgres", "valkey", "openbao", "mosquitto", on_progress=say):
            from tests.benchmarks import presence, wills

            figures = presence.run(devices=options["devices"], expiring=options["expiring"], say=say)
            figures["will_to_ledger"] = wills.run(wills=options["wills"], rate=options["rate"], say=say)
        self.stdout.write(json.dumps(figures, indent=2))
