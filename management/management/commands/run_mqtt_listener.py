"""`manage.py run_mqtt_listener`: receives what devices publish, until it is told to stop."""

import logging
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from management.watchdog import Watchdog
from telemetry.services.ingest import build_ingest
from telemetry.services.listener import Listener
from telemetry.services.storage.store import LOCK_TIMEOUT_MS
from tenants.database import bound_lock_waits

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Receives devices' messages over MQTT, stores them, and acknowledges them when they are stored."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--client-id", default="", help="the MQTT client id, one of its own for each listener")
        parser.add_argument("--share", default="", help="the group of a shared subscription, for several listeners")
        parser.add_argument("--without-manual-ack", action="store_true", help="loses messages: for tests only")
        parser.add_argument("--without-session", action="store_true", help="loses messages: for tests only")

    def handle(self, *args: Any, **options: Any) -> None:
        self._stop = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        listener = Listener(
            build_ingest(),
            client_id=options["client_id"],
            share=options["share"],
            manual_ack=not options["without_manual_ack"],
            persistent=not options["without_session"],
        )
        bound_lock_waits(LOCK_TIMEOUT_MS)
        watchdog = Watchdog(settings.INGEST_WATCHDOG_SECONDS)
        while not self._stop:
            listener.run_once(timeout=settings.INGEST_BATCH_SECONDS)
            watchdog.turned()
        listener.drain()
        logger.info("Stopped; %d messages were read and not stored: they will come again", listener.waiting)

    def _on_signal(self, *_: object) -> None:
        self._stop = True
