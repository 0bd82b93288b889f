"""`manage.py run_alarms`: evaluates stored readings by the alarm rules of all tenants."""

import logging
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from alarms.services.alarm_process import AlarmProcess
from tenants.infrastructure.watchdog import Watchdog

logger = logging.getLogger(__name__)

_STANDSTILL_SECONDS = 300.0


class Command(BaseCommand):
    help = "Evaluates stored readings by the alarm rules. Any number may run at once: each tenant is locked in turn."
    # The checks import every page of the platform, which this process never serves.
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it)

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--interval", type=float, default=0.2, help="seconds between looks for new readings")
        parser.add_argument("--look", type=float, default=5.0, help="seconds between looks for tenants with rules")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        self._stop = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        process = AlarmProcess(interval=options["interval"], look_seconds=options["look"])
        watchdog = Watchdog(_STANDSTILL_SECONDS)
        logger.info("Evaluating alarms")
        while not self._stop:
            process.run_once()
            watchdog.turned()
        process.close()
        logger.info("Stopped; readings wait in the order of storing")

    def _on_signal(self, *_: object) -> None:
        self._stop = True
