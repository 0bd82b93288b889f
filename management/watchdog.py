"""Ends a process whose loop stands still: a frozen server answers no time-out of the process' own."""

import logging
import os
import threading
import time

logger = logging.getLogger(__name__)

EXIT_CODE = 70


class Watchdog:
    """Call `turned` at every turn of the loop, or the process ends `seconds` after the last; then it is restarted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turned_at = time.monotonic()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def turned(self) -> None:
        self._turned_at = time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self._seconds / 4))
            if time.monotonic() - self._turned_at > self._seconds:
                logger.critical("The loop has stood still for %.0f s: ending", self._seconds)
                os._exit(EXIT_CODE)
