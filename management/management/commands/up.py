"""`manage.py up`: runs the servers and processes of the whole platform on this machine until Ctrl-C.

It starts the servers that the settings name, so `manage.py` runs it before the settings are read.
"""

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console

from config.environment import var_dir
from management.embedded.errors import EmbeddedError
from management.up.run import Up
from management.up.setup import SetupFailed


class Command(BaseCommand):
    help = "Starts everything on this machine: servers, platform, and simulated devices."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        http_port, mqtt_port = (
            os.environ.get(name) or port for name, port in (("HTTP_PORT", 8000), ("MQTT_PORT", 1883))
        )
        parser.add_argument("--http-port", type=int, default=http_port, help="default: HTTP_PORT, or 8000")
        parser.add_argument("--mqtt-port", type=int, default=mqtt_port, help="default: MQTT_PORT, or 1883")
        parser.add_argument("--no-simulator", action="store_true", help="start no simulated devices")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        up = Up(
            var_dir(),
            Console(),
            http_port=options["http_port"],
            mqtt_port=options["mqtt_port"],
            simulator=not options["no_simulator"],
        )
        try:
            up.run()
        except (EmbeddedError, SetupFailed) as error:
            self.stderr.write(str(error))
            raise SystemExit(1) from error
