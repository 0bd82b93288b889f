"""`manage.py run_notifier`: publishes changes of device states to apps, and answers state requests."""

import logging
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from telemetry.services.notifier.notifier import Notifier
from tenants.infrastructure.watchdog import Watchdog

logger = logging.getLogger(__name__)

_STANDSTILL_SECONDS = 120.0


class Command(BaseCommand):
    help = "Publishes changes of the devices' states. Any number may run at once, each with a client id of its own."
    # The checks import every page of the platform, which a notifier never serves.
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it)

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--client-id", default="", help="the MQTT client id, one of its own for each notifier")
        parser.add_argument("--look", type=float, default=30.0, help="seconds between looks at every tenant")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        self._stop = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        notifier = Notifier(client_id=options["client_id"], look_seconds=options["look"])
        watchdog = Watchdog(_STANDSTILL_SECONDS)
        while not self._stop:
            notifier.run_once()
            watchdog.turned()
        notifier.close()
        logger.info("Stopped; unpublished changes wait in the outbox")

    def _on_signal(self, *_: object) -> None:
        self._stop = True
