"""One of the platform's own processes, on the servers of this run; ended by its process id."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parents[2]


class Process:
    """Started at once; all it says goes to `log`."""

    def __init__(self, *command: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.started_at = time.time()
        # Compiled once, as what is installed is: else a start is mostly the compiler's time.
        compiled = {"PYTHONPYCACHEPREFIX": str(log.parent / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
        with log.open("ab") as file:
            self.popen = subprocess.Popen(
                [sys.executable, *command],
                cwd=BASE_DIR,
                env={**os.environ, "PYTHONPATH": f"{BASE_DIR / 'platform'}:{BASE_DIR}", **compiled, **(env or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def is_running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it the signal; nothing where it has ended."""
        if self.is_running:
            self.popen.send_signal(number)

    def kill(self) -> None:
        """End it without warning, and wait until it is gone."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM, and SIGKILL when it does not listen; the exit code."""
        if self.is_running:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.wait()

    def said(self, text: str) -> int:
        """How often the text is in its log."""
        return self.log.read_text(errors="replace").count(text)

    def wait_for(self, text: str, timeout: float = 30.0) -> None:
        """Until it has said the text. Raises AssertionError with the end of its log."""
        wait_until(lambda: self.said(text) or not self.is_running, timeout, f"{self.log.name} does not say {text!r}")
        if not self.said(text):
            raise AssertionError(f"It ended:\n{self.log.read_text(errors='replace')[-2000:]}")


def wait_until(condition: Callable[[], object], timeout: float, otherwise: str) -> None:
    """Until the condition holds. Raises AssertionError with `otherwise` when it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{otherwise} (after {timeout:.0f} s)")
        time.sleep(0.02)
