"""`manage.py check_device_health`: sets devices that fell silent to TIMEOUT, when their deadline passes."""

import logging
import signal
import time
from typing import Any

import django.db
from django.core.management.base import BaseCommand, CommandParser
from redis.exceptions import RedisError

from devices.services import health

logger = logging.getLogger(__name__)

LOST = (RedisError, django.db.OperationalError, django.db.InterfaceError)


class Command(BaseCommand):
    help = "Watches the devices' deadlines. Any number may run at once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="one pass over what has expired, then end")
        parser.add_argument(
            "--reconcile", action="store_true", help="first give ONLINE devices missing deadlines"
        )
        parser.add_argument("--interval", type=float, default=1.0, help="seconds between passes")

    def handle(self, *args: Any, **options: Any) -> None:
        self._stop = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        # A checker that starts heals what an outage left; several may do so at once.
        if options["reconcile"] or not options["once"]:
            self._guarded(self._reconcile)
        if options["once"]:
            while health.check_once()[0]:
                pass
            return
        while not self._stop:
            if not self._guarded(health.check_once):
                time.sleep(options["interval"])

    def _reconcile(self) -> tuple[int, int]:
        missing = health.reconcile()
        logger.info("%d devices that are ONLINE had no deadline and got one", missing)
        return 0, 0

    def _guarded(self, step: Any) -> bool:
        """Whether the step found work; a lost server is logged and tried again in the next pass."""
        try:
            return bool(step()[0])
        except LOST as error:
            logger.warning("A server is away: %s", str(error).strip().splitlines()[:1])
            django.db.connection.close()
            return False

    def _on_signal(self, *_: object) -> None:
        self._stop = True
