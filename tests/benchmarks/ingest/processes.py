"""The programs that a run starts, and what each process costs by /proc (Linux)."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from django.conf import settings

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 30.0


class Program:
    """A Python program of the repository. Talks in lines: `ready` when it is, JSON when it has done."""

    def __init__(self, *command: str, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        self._errors: IO[bytes] = log.open("ab")
        root = settings.BASE_DIR
        self._popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=root,
            env={**os.environ, "PYTHONPATH": f"{root / 'platform'}:{root}", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def write_line(self, line: str = "") -> None:
        """Write a line to its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{line}\n")
        self._popen.stdin.flush()

    def wait_ready(self) -> None:
        """Until it says so. Raises AssertionError with its last words when it ends instead."""
        if self._line() != "ready":
            raise AssertionError(f"a program of the benchmark did not start:\n{self.last_words()}")

    def result(self) -> dict[str, Any]:
        """The JSON object that it prints at its end."""
        line = self._line()
        if not line:
            raise AssertionError(f"a program of the benchmark failed:\n{self.last_words()}")
        return dict(json.loads(line))

    def last_words(self) -> str:
        """The end of what it wrote to its standard error."""
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when it does not listen."""
        if self.is_running:
            self._popen.terminate()
        try:
            self._popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _line(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()
        for stream in (self._popen.stdin, self._popen.stdout, self._errors):
            if stream is not None:
                stream.close()


class Meter:
    """Processor time of processes, and of PostgreSQL with all its backends but those in `excluded`."""

    def __init__(self, *, postgres: int, excluded: Sequence[int], **pids: Sequence[int]) -> None:
        self._postgres = postgres
        self._excluded = excluded
        self._pids = pids

    def read(self) -> dict[str, float]:
        """Seconds since each began."""
        spent = {name: sum(map(cpu_seconds, pids)) for name, pids in self._pids.items()}
        # Backends that have ended are in the postmaster's account of its children.
        backends = sum(map(cpu_seconds, _children(self._postgres)))
        watching = sum(map(cpu_seconds, self._excluded))
        spent["postgres"] = cpu_seconds(self._postgres, with_ended_children=True) + backends - watching
        return spent


def machine_seconds() -> tuple[float, float]:
    """Of all processors together, since the start of the machine: seconds in which they were not idle, and all seconds.

    Time that a hypervisor took away counts as not idle: no process here could have used it.
    """
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, idle, waiting, *rest = map(int, fields)
    busy = user + nice + system + sum(rest)
    return busy / _TICKS, (busy + idle + waiting) / _TICKS


def cpu_seconds(pid: int, *, with_ended_children: bool = False) -> float:
    """User and system time of the process, in steps of 10 ms; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11 : 15 if with_ended_children else 13])) / _TICKS


def resident_mb(pid: int) -> float:
    """The process' resident memory in MB (10⁶ bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(f"the process {pid} has ended")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
