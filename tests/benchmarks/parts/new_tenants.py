"""`python -m tests.benchmarks new_tenants`: the schema of a new tenant by the record, and by its migrations, as JSON.

It starts servers of its own, before the settings are read.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = "Makes schemas of tenants by their record and by all migrations, alternately, and compares both."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--schemas", type=int, default=5, help="of each kind")
        parser.add_argument("--json", action="store_true", help="no progress")

    def handle(self, *args: Any, **options: Any) -> None:
        def say(text: str) -> None:
            if not options["json"]:
                self.stderr.write(text)

        with own_servers("postgres", "valkey", on_progress=say):
            from django.db import connection

            from tests.schemas.catalogue import read_catalogue
            from tests.schemas.recording import run_migrations

            call_command("migrate_schemas", shared=True, verbosity=0)
            ways = {"record": _run_command, "migrations": run_migrations}
            spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            made = []
            for number in range(options["schemas"]):
                for name, fill in ways.items():
                    schema = f"t_{name}_{number}"
                    with connection.cursor() as cursor:
                        cursor.execute(f"CREATE SCHEMA {schema}")
                    spent[name].append(_measure(lambda fill=fill, schema=schema: fill(schema)))  # type: ignore[misc]
                    made.append(read_catalogue(schema))
                    say(f"{schema}: {spent[name][-1][1]:.2f} s")
        self.stdout.write(json.dumps(_figures(spent), indent=2))
        if any(each != made[0] for each in made):
            raise CommandError("The schemas differ.")


def _run_command(schema: str) -> None:
    call_command("migrate_schemas", tenant=True, schema_name=schema, interactive=False, verbosity=0)


def _measure(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of this process' processor time, and those until the call returned."""
    processor, began = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - processor, time.perf_counter() - began


def _figures(spent: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Return the least seconds of each way, and the record's share of the migrations'."""
    least = {name: [round(min(column), 3) for column in zip(*rows, strict=True)] for name, rows in spent.items()}
    return {
        "cpu_s": {name: seconds[0] for name, seconds in least.items()},
        "seconds": {name: seconds[1] for name, seconds in least.items()},
        "cpu_ratio": round(least["record"][0] / least["migrations"][0], 3),
        "ratio": round(least["record"][1] / least["migrations"][1], 3),
    }
