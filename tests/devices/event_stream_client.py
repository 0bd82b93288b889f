"""A client of the event stream for tests, and a web server of its own."""

import http.client
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from django.db import connection

from tests.processes import Process, free_port, wait_until

POOL_SIZE = 4


class Stream:
    """A watcher: reads one event at a time, and fails where none comes."""

    def __init__(self, port: int, path: str, headers: dict[str, str], timeout: float = 5) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._connection.request("GET", path, headers=headers)
        self.response = self._connection.getresponse()
        self.ids: list[int] = []
        self.comments = 0

    def __enter__(self) -> Self:
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["Content-Type"] == "text/event-stream"
        self.begin = int(self._block()["id"])
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def event(self) -> dict[str, Any]:
        """The next event's data."""
        block = self._block()
        assert block["event"] == "status"
        self.ids.append(int(block["id"]))
        data: dict[str, Any] = json.loads(block["data"])
        return data

    def events(self, count: int) -> list[tuple[str, str]]:
        """(device, state) of the next events."""
        return [(event["device"], event["to"]) for event in (self.event() for _ in range(count))]

    def is_silent(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes within this time."""
        assert self._connection.sock
        self._connection.sock.settimeout(seconds)
        try:
            return not self.response.readline()
        except TimeoutError:
            return True

    def ends(self) -> bool:
        """Whether the server ends the stream, after whatever it still says."""
        try:
            while self.response.readline():
                pass
        except (ConnectionResetError, http.client.IncompleteRead):
            pass
        return True

    def _block(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        while line := self.response.readline().decode():
            if line == "\n" and fields:
                return fields
            if line.startswith(":"):
                self.comments += 1
            elif line != "\n":
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value
        raise ConnectionError("The stream has ended.")


class Web:
    """A web server of the platform, with a small pool of connections that are known by a name."""

    def __init__(self, log: Path, port: int = 0, env: Mapping[str, str] | None = None) -> None:
        self.port, self.name = port or free_port(), f"web-{os.urandom(4).hex()}"
        own = {"DATABASE_POOL": "1", "DATABASE_POOL_SIZE": str(POOL_SIZE), "PGAPPNAME": self.name}
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--timeout-graceful-shutdown", "1")
        self.process = Process(
            "-m", "uvicorn", "config.asgi:application", *options, log=log, env={**own, **(env or {})}
        )
        wait_until(lambda: self.get("/healthz") == 200, 180, log.read_text)

    def get(self, path: str, **headers: str) -> int:
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            asked.request("GET", path, headers=headers)
            return asked.getresponse().status
        except ConnectionRefusedError:
            return 0
        finally:
            asked.close()

    def connections(self) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [self.name])
            return int(cursor.fetchone()[0])
