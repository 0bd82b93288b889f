"""Drive simulated devices against a running platform."""

import argparse
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from management.simulator.faults import FAULTS, parse_faults
from management.simulator.fleet import Fleet, FleetOptions, Summary
from management.simulator.inventory import InventoryUnusable, load_inventory


def positive(text: str, kind: type[float] = float) -> float:
    """Return the number above zero that `text` is, of that kind."""
    number = kind(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


positive_int = partial(positive, kind=int)


def faults(text: str) -> dict[str, float]:
    """Return the faults in `text`, with their probabilities."""
    try:
        return parse_faults(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Command(BaseCommand):
    """Options in, a fleet run, a summary out."""

    help = "Simulates devices: they connect, measure a greenhouse, and send signed messages, faulty ones on request."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); it needs no database

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--quickstart", type=Path, help="the file with the devices (default: VAR/quickstart.json)")
        parser.add_argument(
            "--device",
            action="append",
            default=[],
            metavar="UUID",
            help="drive this device (repeatable), simulated or not",
        )
        parser.add_argument("--count", type=positive_int, help="how many of the simulated devices (default: all)")
        pace = parser.add_mutually_exclusive_group()
        pace.add_argument("--rate", type=positive, help="messages per second over the whole fleet")
        pace.add_argument("--interval", type=positive, default=5.0, help="seconds between a device's reports (5)")
        parser.add_argument("--signature", choices=["v1", "v2"], help="instead of each device's own version")
        parser.add_argument("--duration", type=positive, help="stop after so many seconds")
        parser.add_argument("--messages", type=positive_int, help="stop after so many measurements")
        parser.add_argument(
            "--faults", type=faults, default={}, help=f"name=probability, by commas: {', '.join(FAULTS)}"
        )
        parser.add_argument("--seed", type=int, help="for the same values and faults again")
        parser.add_argument("--via-bridge", action="store_true", help="one connection for all, with the bridge account")
        parser.add_argument("--json", action="store_true", help="print the summary as JSON; reports go to stderr")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run the fleet until it is done or SIGTERM or SIGINT comes."""
        fleet = self._fleet(options)
        reports = self.stderr if options["json"] else self.stdout
        reports.write(f"simulating {len(fleet.devices)} devices with {len(fleet.sources)} components")
        with stopping_on_signals(fleet):
            summary = fleet.run(lambda so_far: reports.write(describe(so_far)))
        self.stdout.write(json.dumps(summary.as_dict()) if options["json"] else describe(summary))

    def _fleet(self, options: dict[str, Any]) -> Fleet:
        names = ("interval", "rate", "signature", "duration", "messages", "faults", "seed", "via_bridge")
        fleet_options = FleetOptions(**{name: options[name] for name in names})
        try:
            inventory = load_inventory(options["quickstart"] or settings.VAR_DIR / "quickstart.json")
            return Fleet(inventory, inventory.choose(options["device"], options["count"]), fleet_options)
        except InventoryUnusable as error:
            raise CommandError(str(error)) from error


def describe(summary: Summary) -> str:
    """Return the summary as one line for people."""
    line = (
        f"{summary.seconds:.0f} s: {summary.sent} sent ({summary.rate:g}/s), {summary.acknowledged} acknowledged, "
        f"{summary.waiting} waiting, {summary.connections} connections"
    )
    lost = {"refused by the broker": summary.refused, "dropped from a full buffer": summary.dropped}
    notes = [f"{number} {name}" for name, number in {**lost, **summary.faults}.items() if number]
    return "; ".join([line, *notes])


@contextmanager
def stopping_on_signals(fleet: Fleet) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the fleet cleanly; a second one ends the process at once."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        fleet.stop()

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
