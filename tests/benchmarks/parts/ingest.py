"""`python -m tests.benchmarks ingest`: the listener beside other ways to take the same messages, as JSON.

It starts servers of its own, before the settings are read.
"""

import json
import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tests.benchmarks.ingest.options import PARTS, Options
from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = "Measures ingest on servers of its own, verifies every row, and compares it with other ways to do it."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        usual = Options()
        parser.add_argument("--json", action="store_true", help="prints JSON; the only form there is")
        parser.add_argument("--only", default=",".join(PARTS), help=f"parts, with commas: {', '.join(PARTS)}")
        parser.add_argument("--rounds", type=int, default=usual.rounds, help="how often each part takes its turn")
        parser.add_argument("--devices", type=int, default=usual.devices)
        parser.add_argument("--messages", type=int, default=usual.messages, help="in a burst")
        parser.add_argument(
            "--old-messages", type=int, default=usual.old_messages, help="in each of the old ways' bursts"
        )
        parser.add_argument("--node-red-messages", type=int, default=usual.node_red_messages, help="in Node-RED's")
        parser.add_argument(
            "--version-2", type=float, default=usual.version_2_share, help="share of devices that sign with version 2"
        )
        parser.add_argument("--tenants", type=int, default=usual.tenants, help="over which a burst is spread")
        parser.add_argument("--rates", default="1000,10000", help="messages/s at which latency is measured")
        parser.add_argument("--latency-seconds", type=float, default=usual.latency_seconds)
        parser.add_argument("--known-devices", type=int, default=usual.known_devices, help="for the memory")
        parser.add_argument("--minutes", type=float, default=usual.minutes, help="of load for the memory's growth")
        parser.add_argument("--soak-rate", type=int, default=usual.soak_rate, help="messages/s in these minutes")
        parser.add_argument("--node-red", default="", help="the node-red program; by default the one on the PATH")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = _options(options)

        def say(text: str) -> None:
            self.stderr.write(text)

        with own_servers("postgres", "valkey", "openbao", "mosquitto", on_progress=say) as stack:
            from tests.benchmarks.ingest.run import run

            directory = Path(os.environ["GWANJE_VAR"]) / "bench"
            directory.mkdir()
            figures = run(wanted, stack, directory, say)
        self.stdout.write(json.dumps(figures, indent=2))


def _options(given: dict[str, Any]) -> Options:
    only = tuple(part.strip() for part in given["only"].split(",") if part.strip())
    if unknown := set(only) - set(PARTS):
        raise CommandError(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    try:
        rates = tuple(int(rate) for rate in given["rates"].split(",") if rate.strip())
    except ValueError as error:
        raise CommandError(f"--rates takes whole numbers with commas between them: {error}") from error
    return Options(
        only=only,
        rounds=given["rounds"],
        devices=given["devices"],
        messages=given["messages"],
        old_messages=given["old_messages"],
        node_red_messages=given["node_red_messages"],
        version_2_share=given["version_2"],
        tenants=given["tenants"],
        rates=rates,
        latency_seconds=given["latency_seconds"],
        known_devices=given["known_devices"],
        minutes=given["minutes"],
        soak_rate=given["soak_rate"],
        node_red=given["node_red"],
    )
