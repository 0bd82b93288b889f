"""Replicas of one command: several processes, started, restarted and stopped together."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from management.embedded.server import BASE_DIR
from tenants.infrastructure.retry import Backoff

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = (0.5, 30.0)  # shortest and longest
_LIVED_SECONDS = 60.0
_STOP_SECONDS = 15.0


class Replica:
    """One of the processes. It is restarted with a growing pause while it keeps ending early."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = [sys.executable, str(BASE_DIR / "manage.py"), *command]
        self._restart = Backoff(*_PAUSE_SECONDS)
        self._started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start the process when it does not run and its pause is over."""
        now = time.monotonic()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            if now - self._started_at > _LIVED_SECONDS:
                self._restart.reset()
            pause = self._restart.fail()
            logger.error("%s ended with %s; restarting it in %.1f s", " ".join(self._command[1:]), code, pause)
        if self._process is None and not self._restart.is_pausing:
            self._started_at = now
            self._process = subprocess.Popen(self._command)

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, seconds: float) -> int:
        """Return the exit code; kill the process when it does not stop within `seconds`."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def run_replicas(commands: Sequence[Sequence[str]]) -> int:
    """Run the management commands until SIGTERM or SIGINT; return 0 when all stopped by themselves."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    replicas = [Replica(command) for command in commands]
    while not stopping:
        for replica in replicas:
            replica.keep()
        time.sleep(0.2)
    for replica in replicas:
        replica.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    codes = [replica.wait(max(0.1, deadline - time.monotonic())) for replica in replicas]
    return max(map(abs, codes))
