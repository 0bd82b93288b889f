"""Web servers of a checkout, started as its own `make run` starts them, and the processor time that they use."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import free_port, wait_until

_START_SECONDS = 300.0
_STOP_SECONDS = 20.0
# Prints what `make run` of the checkout starts as its web server: the command and the variables.
_PROGRAM = """
import json, os, sys
sys.path[:0] = ["platform", "."]
from pathlib import Path
from management.up.programs import programs
started = programs(os.environ, Path(sys.argv[1]), int(sys.argv[2]), simulator=False)
web = next(one for one in started if one.name == "web")
print(json.dumps([list(web.command), dict(web.env)]))
"""
# Everything is counted, nothing is refused: no request rate is a limit here.
_SETTINGS = {"API_REQUESTS_PER_MINUTE": str(10**9)}


class WebServer:
    """The web server of a checkout on the run's servers; `close` it."""

    def __init__(self, directory: Path, log: Path, python: str = sys.executable) -> None:
        self._python = python
        self.port = free_port()
        env = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DJANGO_SETTINGS_MODULE")
        } | _SETTINGS
        command, extra = self._program(directory, log.parent, env)
        paths = {"PYTHONPATH": f"{directory / 'platform'}:{directory}", "DJANGO_SETTINGS_MODULE": "config.settings"}
        with log.open("ab") as file:
            self._popen = subprocess.Popen(
                command, cwd=directory, env={**env, **extra, **paths}, stdout=file, stderr=subprocess.STDOUT
            )
        wait_until(self._answers, _START_SECONDS, lambda: log.read_text(errors="replace")[-3000:])

    @property
    def pids(self) -> list[int]:
        """The process and its descendants."""
        return descendants(self._popen.pid)

    def close(self) -> None:
        """End the process with its children."""
        pids = self.pids
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self._popen.wait()

    def _program(self, directory: Path, logs: Path, env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        said = subprocess.run(
            [self._python, "-c", _PROGRAM, str(logs), str(self.port)],
            cwd=directory,
            env={**env, "DJANGO_SETTINGS_MODULE": "config.settings"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        command, extra = json.loads(said)
        return command, extra

    def _answers(self) -> bool:
        if self._popen.poll() is not None:
            raise AssertionError("The web server has ended by itself")
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        return False


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Processor time in seconds: of the web processes, of PostgreSQL's backends, and of Redis."""

    web: float
    postgresql: float
    redis: float


class Meter:
    """Measures the processor time of a web server and of the database servers behind it."""

    def __init__(self, server: WebServer, postgresql: int, redis: int) -> None:
        """`postgresql` and `redis` are the process ids of the database servers."""
        self._server, self._postgresql, self._redis = server, postgresql, redis
        self._seen: dict[int, float] = {}

    @contextmanager
    def measure(self) -> Iterator[list[ProcessorTime]]:
        """Yield a list that holds the processor time of the block when it has ended."""
        before = self._groups()
        found: list[ProcessorTime] = []
        yield found
        # PostgreSQL's backends count when their statement has ended, a moment after the answer.
        time.sleep(0.02)
        after = self._groups()
        found.append(ProcessorTime(*(_spent(old, new) for old, new in zip(before, after, strict=True))))

    def _groups(self) -> list[dict[int, float]]:
        return [
            _processor_times(self._server.pids),
            _processor_times(descendants(self._postgresql)),
            _processor_times([self._redis]),
        ]


def _spent(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def _processor_times(pids: Iterable[int]) -> dict[int, float]:
    """Return the processor time of each process in seconds, as exact as the kernel's clock; ended ones are left out."""
    found = {}
    for pid in pids:
        with suppress(OSError):
            # The clock of another process, of clock_getcpuclockid(3).
            found[pid] = time.clock_gettime((~pid << 3) | 2)
    return found


def descendants(pid: int) -> list[int]:
    """Return the process and all processes below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        one = left.pop()
        found.append(one)
        left += parents.get(one, [])
    return found


def server_pids() -> tuple[int, int]:
    """Return the process ids of PostgreSQL's postmaster and of Redis, as they say themselves."""
    from django.db import connection
    from django_redis import get_redis_connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()
    fields = Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()
    info: Any = get_redis_connection("default").info("server")
    return int(fields[1]), int(info["process_id"])
