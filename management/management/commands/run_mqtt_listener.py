"""`manage.py run_mqtt_listener`: receives what devices publish, until it is told to stop."""

import logging
import os
import signal
import threading
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from telemetry.services.ingest import build_ingest
from telemetry.services.listener import Listener

logger = logging.getLogger(__name__)

_WATCHDOG_EXIT = 70


class Command(BaseCommand):
    help = "Receives devices' messages over MQTT, stores them, and acknowledges them when they are stored."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--client-id", default="", help="the MQTT client id, one of its own for each listener")
        parser.add_argument("--share", default="", help="the group of a shared subscription, for several listeners")
        parser.add_argument("--without-manual-ack", action="store_true", help="loses messages: for tests only")
        parser.add_argument("--without-session", action="store_true", help="loses messages: for tests only")

    def handle(self, *args: Any, **options: Any) -> None:
        self._stop = False
        self._turned_at = time.monotonic()
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        listener = Listener(
            build_ingest(),
            client_id=options["client_id"],
            share=options["share"],
            manual_ack=not options["without_manual_ack"],
            persistent=not options["without_session"],
        )
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        while not self._stop:
            listener.run_once(timeout=settings.INGEST_BATCH_SECONDS)
            self._turned_at = time.monotonic()
        listener.drain()
        logger.info("Stopped; %d messages were read and not stored: they will come again", listener.waiting)

    def _on_signal(self, *_: object) -> None:
        self._stop = True

    def _watch(self) -> None:
        """End the process when the loop stands still: a frozen database answers no time-out of its own."""
        while True:
            time.sleep(1)
            if time.monotonic() - self._turned_at > settings.INGEST_WATCHDOG_SECONDS:
                logger.critical("The loop has stood still for %.0f s: ending", settings.INGEST_WATCHDOG_SECONDS)
                os._exit(_WATCHDOG_EXIT)
