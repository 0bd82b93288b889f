"""`manage.py run_mqtt_listener`: receives and stores the devices' messages until SIGTERM."""

import logging
import signal
import sys
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from management.replicas import run_replicas
from telemetry.services.ingest.batch_pipeline import build_pipeline
from telemetry.services.ingest.listener import SHARE, Listener
from telemetry.services.storage.tenant_writer import LOCK_TIMEOUT_MS
from tenants.infrastructure.database import bound_lock_waits
from tenants.infrastructure.memory import give_back_memory
from tenants.infrastructure.watchdog import Watchdog

logger = logging.getLogger(__name__)

# Queued messages of a retiring listener arrive without pauses.
_IDLE_SECONDS = 3.0
# The longest wait of an idle turn of the loop.
_TURN_SECONDS = 0.05


class Command(BaseCommand):
    help = "Receives devices' messages over MQTT, stores them, and acknowledges them when they are stored."

    # The checks import every page of the platform, which a listener never serves: 40 MB of memory.
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it)

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--client-id", default="", help="the MQTT client id, one of its own for each listener")
        parser.add_argument("--share", default="", help="the group of a shared subscription, for several listeners")
        parser.add_argument("--replicas", type=int, default=1, help="so many processes on a shared subscription")
        parser.add_argument(
            "--retire",
            action="store_true",
            help="store the queued messages of this client id, and end its session",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        if options["replicas"] < 1:
            raise CommandError("--replicas is a number from 1.")
        if options["replicas"] > 1:
            sys.exit(run_replicas(replica_commands(options)))
        self._stop = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        listener = self.make_listener(options)
        bound_lock_waits(LOCK_TIMEOUT_MS)
        give_back_memory()
        watchdog = Watchdog(settings.INGEST_WATCHDOG_SECONDS)
        busy_at = time.monotonic()
        while not self._stop and not (options["retire"] and time.monotonic() - busy_at > _IDLE_SECONDS):
            if listener.run_once(timeout=_TURN_SECONDS) or listener.waiting:
                busy_at = time.monotonic()
            watchdog.turned()
        listener.drain()
        logger.info(
            "Stopped after %d messages; %d were read and not stored: they will come again",
            listener.processed,
            listener.waiting,
        )

    def make_listener(self, options: dict[str, Any]) -> Listener:
        """Return the listener that the options describe."""
        return Listener(
            build_pipeline(), client_id=options["client_id"], share=options["share"], retiring=options["retire"]
        )

    def _on_signal(self, *_: object) -> None:
        self._stop = True


def replica_commands(options: dict[str, Any]) -> list[list[str]]:
    """Return the command of each replica. The first has the client id of a single listener."""
    name = options["client_id"] or settings.MQTT_CLIENT_ID
    share = options["share"] or SHARE
    names = [name, *(f"{name}-{number}" for number in range(2, options["replicas"] + 1))]
    return [["run_mqtt_listener", "--share", share, "--client-id", one] for one in names]
