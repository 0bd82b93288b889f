"""Processes and threads that tests start, and waiting for them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    """Return a TCP port of the loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], timeout: float = 180, explain: Callable[[], str] | str = "") -> Any:
    """Return the condition's first true value. Raises AssertionError with `explain` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            reason = explain if isinstance(explain, str) else explain()
            raise AssertionError(f"not within {timeout:.0f} s: {reason}")
        time.sleep(0.02)
    return value


def run_at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what the calls return, in the order in which they end; each runs in a thread of its own."""
    from django.db import connections

    answers: list[Any] = []
    barrier = threading.Barrier(max(1, len(calls)))

    def run(call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            answers.append(call())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


class Process:
    """A process of the platform on the run's servers, started at once; its output goes to `log`."""

    def __init__(self, *command: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.started_at = time.time()
        with log.open("ab") as file:
            self.popen = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}", **(env or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it the signal; nothing where it has ended."""
        if self.is_running:
            self.popen.send_signal(number)

    def kill(self) -> None:
        """End it by SIGKILL, and wait until it is gone."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, timeout: float = 60) -> int:
        """End it by SIGTERM, by SIGKILL after `timeout` seconds; return the exit code."""
        if self.is_running:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.wait()

    def output(self) -> str:
        """Return what it has written so far."""
        return self.log.read_text(errors="replace")

    def occurrences(self, text: str) -> int:
        """Return how often the text is in its output."""
        return self.output().count(text)

    def wait_for(self, text: str, timeout: float = 180) -> None:
        """Wait until the text is in its output. Raises AssertionError with the end of it, at once when it ends."""
        wait_until(lambda: self.occurrences(text) or not self.is_running, timeout, lambda: self.output()[-2000:])
        if not self.occurrences(text):
            raise AssertionError(f"The process has ended without {text!r}:\n{self.output()[-2000:]}")
