"""`python -m tests.benchmarks many_tenants`: what a message costs with many small tenants, as JSON.

It starts servers of its own, before the settings are read.
"""

import json
import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = "Measures ingest of many small tenants beside a few large ones with as many devices, on servers of its own."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the figures as JSON, which is the only form")
        parser.add_argument("--many", type=int, default=1000, help="tenants")
        parser.add_argument("--few", type=int, default=10, help="tenants that they are compared with")
        parser.add_argument("--devices", type=int, default=100_000, help="of each, in all")
        parser.add_argument("--rate", type=int, default=1000, help="messages a second")
        parser.add_argument("--seconds", type=float, default=60.0)
        parser.add_argument("--spec-ttl", type=float, default=3.0, help="INGEST_SPEC_TTL of the listener in seconds")

    def handle(self, *args: Any, **options: Any) -> None:
        def say(text: str) -> None:
            self.stderr.write(text)

        with own_servers("postgres", "valkey", "openbao", "mosquitto", on_progress=say) as stack:
            from tests.benchmarks.many_tenants import Size, run

            directory = Path(os.environ["GWANJE_VAR"]) / "bench"
            directory.mkdir()
            size = Size(*(options[name] for name in ("many", "few", "devices", "rate", "seconds", "spec_ttl")))
            figures = run(size, stack, directory, say)
        self.stdout.write(json.dumps(figures, indent=2))
