"""`python -m tests.benchmarks broker_access`: what accounts at Mosquitto and logins at EMQX cost, as JSON.

It starts servers of its own, before the settings are read.
"""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = (
        "Measures ways to keep accounts at Mosquitto, and ways to authenticate logins for EMQX, on servers of its own."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the figures as JSON, which is the only form")
        parser.add_argument("--accounts", type=int, nargs="+", default=[1_000, 10_000])
        parser.add_argument("--devices", type=int, default=1_000)
        parser.add_argument("--tenants", type=int, default=10)
        parser.add_argument("--logins", type=int, default=10_000)

    def handle(self, *args: Any, **options: Any) -> None:
        def say(text: str) -> None:
            self.stderr.write(text)

        with own_servers("postgres", "valkey", "openbao", on_progress=say):
            from django.core.management import call_command

            from tests.benchmarks import broker_accounts, logins

            call_command("migrate_schemas", shared=True, verbosity=0)
            figures = {"accounts": broker_accounts.run(sizes=options["accounts"], say=say)}
            figures["logins"] = logins.run(
                devices=options["devices"], tenants=options["tenants"], logins=options["logins"], say=say
            )
        self.stdout.write(json.dumps(figures, indent=2))
