"""`manage.py check_device_health`: sets silent devices to TIMEOUT when their deadline passes."""

import logging
import signal
import time
from collections.abc import Callable
from typing import Any

import django.db
from django.core.management.base import BaseCommand, CommandParser
from redis.exceptions import RedisError

from devices.services.presence import health_checker
from tenants.infrastructure import metrics
from tenants.infrastructure.retry import DATABASE_LOST, first_line

logger = logging.getLogger(__name__)

_SERVER_LOST = (RedisError, *DATABASE_LOST)
_LATE_SECONDS = 5.0


class Command(BaseCommand):
    help = "Watches the devices' deadlines. Any number may run at once."
    # The checks import every page of the platform, which a checker never serves.
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it)

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--once", action="store_true", help="one pass over what has expired, then end")
        parser.add_argument("--reconcile", action="store_true", help="first rebuild Redis from PostgreSQL")
        parser.add_argument("--interval", type=float, default=0.5, help="seconds between passes")
        parser.add_argument("--batch", type=int, default=2000, help="the most devices in one transaction")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        self._stop = False
        self._obstacle = ""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        # A starting checker corrects the states after an outage; several can do so at once.
        if options["reconcile"] or not options["once"]:
            self._guarded(lambda: logger.info("%d deadlines were missing in Redis", health_checker.reconcile()))
        if options["once"]:
            while self._pass(options["batch"]):
                pass
            return
        while not self._stop:
            if not self._guarded(lambda: self._pass(options["batch"])):
                time.sleep(options["interval"])

    def _pass(self, batch: int) -> bool:
        """Run one pass; return whether more work can be due at once."""
        done = health_checker.check(batch)
        if done.obstacle != self._obstacle:
            self._obstacle = done.obstacle
            if done.obstacle == "no_listener":
                logger.warning("No listener is running: timeouts are suspended until one runs")
            else:
                logger.info("Timeouts are no longer suspended")
        metrics.record(
            {"checker_last_pass_timestamp_seconds": time.time(), "checker_behind_seconds": done.overdue_seconds},
            {"checker_deadlines_passed_total": done.expired, "checker_timeouts_total": done.timed_out},
        )
        if done.expired or done.wills:
            logger.info(
                "%d deadlines passed, %d devices timed out, %d wills decided; %.1f s behind",
                done.expired,
                done.timed_out,
                done.wills,
                done.overdue_seconds,
            )
        if done.overdue_seconds > _LATE_SECONDS:
            logger.warning("The oldest deadline had passed %.1f s before", done.overdue_seconds)
        return done.expired >= batch

    def _guarded(self, step: Callable[[], Any]) -> bool:
        """Run a step; return whether it found work. A lost server is logged and retried in the next pass."""
        try:
            return bool(step())
        except _SERVER_LOST as error:
            logger.warning("A server is unavailable: %s", first_line(error))
            django.db.connection.close()
            return False

    def _on_signal(self, *_: object) -> None:
        self._stop = True
