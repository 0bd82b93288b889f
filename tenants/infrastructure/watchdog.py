"""Watchdog that ends a process whose loop does not advance, for example because a server is frozen."""

import logging
import os
import threading
import time

logger = logging.getLogger(__name__)

EXIT_CODE = 70


class Watchdog:
    """Ends the process `seconds` after the last call of `turned`; its supervisor restarts it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turned_at = time.monotonic()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def turned(self) -> None:
        """Record that the loop has advanced."""
        self._turned_at = time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self._seconds / 4))
            if time.monotonic() - self._turned_at > self._seconds:
                logger.critical("The loop has not advanced for %.0f s: ending the process", self._seconds)
                os._exit(EXIT_CODE)
