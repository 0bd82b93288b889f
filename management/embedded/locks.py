"""Locks of a directory: one process at a time runs its servers, and until they have stopped."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from .errors import AlreadyRunning

_STOPPING_SECONDS = 60.0


class Locks:
    """Two locks: this process holds `owner`; supervisord inherits `servers`, which outlives a killed owner process."""

    def __init__(self, directory: Path) -> None:
        self._var = directory.parent
        self._owner, self._servers = directory / "owner.lock", directory / "servers.lock"
        self._descriptors: list[int] = []

    def take(self, progress: Callable[[str], None]) -> int:
        """Take both locks and return the one for supervisord; wait while the servers of a killed owner stop.

        Raises AlreadyRunning.
        """
        if not self._try(self._owner):
            raise AlreadyRunning(
                f"The servers of {self._var} are already running. Stop that run first, or use another "
                "directory and other ports: make run VAR=… HTTP_PORT=… MQTT_PORT=…"
            )
        deadline, announced = time.monotonic() + _STOPPING_SECONDS, False
        while not self._try(self._servers):
            if not announced:
                progress("Waiting until the servers of the previous run have stopped")
                announced = True
            if time.monotonic() > deadline:
                self.release()
                raise AlreadyRunning(f"The servers of an earlier run in {self._var} do not stop.")
            time.sleep(0.1)
        return self._descriptors[-1]

    def _try(self, path: Path) -> bool:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptors.append(descriptor)
        return True

    def release(self) -> None:
        """Release both locks; safe to repeat."""
        while self._descriptors:
            os.close(self._descriptors.pop())
