"""`manage.py run_bridge`: the program of a gateway, as `python -m bridge` runs it on a machine without the platform."""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

DEVICE_CLIENT = Path(__file__).parents[2] / "device_client"


class Command(BaseCommand):
    help = "Takes messages of off-the-shelf devices on a local broker, and sends them as their gateway."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); it needs no database

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("config", help="JSON with the gateway's credentials and the local broker")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run until SIGINT or SIGTERM."""
        sys.path.insert(0, str(DEVICE_CLIENT))  # where the program imports the device client from
        from devices.bridge.program import main

        raise SystemExit(main([options["config"]]))
