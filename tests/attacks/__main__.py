"""`make attacks`: attacks of a device, key, person or visitor, and their cost for others, on servers of its own.

Each attack is played with all brakes, and without its own. It starts the servers before the settings are read.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "platform"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from config.environment import var_dir
from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = "Attacks its own servers as a device, a key, a person or a visitor, and measures what others notice."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the results as JSON")
        parser.add_argument("--rows", default="", help="names of attacks or kinds, with commas; all without it")
        parser.add_argument("--scale", type=float, default=1.0, help="size of the attacks")
        parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
        parser.add_argument("--logs", default="", help="where the processes' logs are kept when an attack fails")

    def handle(self, *args: Any, **options: Any) -> None:
        def say(text: str) -> None:
            self.stderr.write(text)

        with own_servers("postgres", "valkey", "openbao", "mosquitto", on_progress=say) as stack:
            # They need the settings, which need the servers.
            from django.core.management import call_command

            from tenants.services.lifecycle import create_tenant
            from tests.attacks import run
            from tests.attacks.arena import Grounds
            from tests.attacks.attack import ATTACKS, load_rows

            load_rows()
            names = {name.strip() for name in options["rows"].split(",") if name.strip()}
            if unknown := names - ATTACKS.keys() - {each.kind for each in ATTACKS.values()}:
                raise CommandError(f"No such attack: {', '.join(sorted(unknown))}. There are: {', '.join(ATTACKS)}.")
            chosen = [each for each in ATTACKS.values() if not names or {each.name, each.kind} & names]
            call_command("migrate_schemas", shared=True, verbosity=0)
            attacker, neighbour = (create_tenant(slug=slug, name=slug.title()) for slug in ("attacker", "neighbour"))
            grounds = Grounds(stack, attacker, neighbour, stack.var / "log", options["scale"], options["seconds"])
            results = run.play_all(grounds, chosen, say)
            if failed := [result.attack.name for result in results if not result.passed]:
                kept = Path(options["logs"] or var_dir() / "attacks")
                shutil.copytree(stack.var / "log", kept, dirs_exist_ok=True)
                say(f"The logs are in {kept}")
        if options["json"]:
            self.stdout.write(json.dumps([result.as_json() for result in results], indent=2))
        if failed:
            raise CommandError(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    Command().run_from_argv(["tests", "attacks", *sys.argv[1:]])
