"""The parts that all measurements of a run share: servers, a connection for queries, the load, and programs."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
import psycopg
from django.conf import settings
from paho.mqtt.enums import CallbackAPIVersion

from management.embedded.stack import EmbeddedStack

from .load import Load, LoadMaker
from .options import Options
from .processes import Meter, Program, resident_mb
from .tables import stored

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.025
_SETTLE_SECONDS = 0.3
_CONNECTED = "Connected to the broker"


@dataclass(slots=True)
class Bench:
    """A run. `look` is a connection that only looks; its backend is not counted as PostgreSQL's."""

    options: Options
    stack: EmbeddedStack
    directory: Path
    look: psycopg.Connection
    loads: LoadMaker
    started: int = 0

    def log(self, name: str) -> Path:
        """A file of its own for what a program says."""
        self.started += 1
        return self.directory / f"{name}-{self.started}.log"

    def meter(self, **pids: list[int]) -> Meter:
        """What the servers and these processes cost."""
        return Meter(
            postgres=self.stack.pid("postgres"),
            excluded=[self.look.info.backend_pid],
            mosquitto=[self.stack.pid("mosquitto")],
            valkey=[self.stack.pid("valkey")],
            **pids,
        )

    @contextmanager
    def publisher(self, load: Load, *, rate: float = 0.0) -> Iterator[Program]:
        """The publisher, connected and ready to start; with a rate, its stamps are in `stamps`."""
        command = ["-m", "tests.benchmarks.ingest.publisher", str(load.data), str(load.ends)]
        if rate:
            command += ["--rate", str(rate), "--stamps", str(self.stamps)]
        with Program(*command, log=self.log("publisher")) as program:
            program.wait_ready()
            yield program

    @property
    def stamps(self) -> Path:
        """Where a publisher with a rate leaves the moments of sending."""
        return self.directory / "stamps"

    @contextmanager
    def listeners(self, count: int, env: Mapping[str, str] | None = None) -> Iterator[list[Program]]:
        """So many of the platform's listeners, subscribed; their sessions end with them."""
        self.started += 1
        names = [f"bench-{self.started}-{number}" for number in range(count)]
        share = ["--share", "ingest"] if count > 1 else []
        manage = str(settings.BASE_DIR / "manage.py")
        programs: list[Program] = []
        try:
            for name in names:
                command = [manage, "run_mqtt_listener", "--client-id", name, *share]
                programs.append(Program(*command, log=self.log("listener"), env={"LOG_LEVEL": "INFO", **(env or {})}))
            for program in programs:
                _wait_connected(program)
            yield programs
        finally:
            for program in programs:
                program.__exit__(None, None, None)
            for name in names:
                _end_session(name)

    def wait_stored(self, expected: dict[str, int], programs: list[Program], *, patience: float = 0.0) -> float:
        """Until the schemas' totals say that so many messages were received; the moment of it (monotonic).

        The last schema of the load is looked at first: the others are done when it is. Raises AssertionError when
        nothing arrives for a minute, or a listener has ended.
        """
        patience = patience or _PATIENCE_SECONDS
        progress = (0, time.monotonic())
        for schema, wanted in reversed(expected.items()):
            while (seen := stored(self.look, schema)) < wanted:
                now = time.monotonic()
                if seen != progress[0]:
                    progress = (seen, now)
                dead = [program for program in programs if not program.is_running]
                if dead or now - progress[1] > patience:
                    words = "\n".join(program.last_words() for program in dead or programs)
                    raise AssertionError(f"{schema}: {seen} of {wanted} messages arrived.\n{words}")
                time.sleep(_POLL_SECONDS)
        return time.monotonic()


def resident(programs: list[Program]) -> float:
    """The programs' resident memory in MB, the largest one's."""
    return round(max(resident_mb(program.pid) for program in programs), 1)


def account(variable: str) -> tuple[str, str]:
    """Name and password in the URL in the environment."""
    url = urlsplit(os.environ[variable])
    return unquote(url.username or ""), unquote(url.password or "")


def _wait_connected(program: Program) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while _CONNECTED not in program.log.read_text(errors="replace"):
        if not program.is_running or time.monotonic() > deadline:
            raise AssertionError(f"the listener did not connect:\n{program.last_words()}")
        time.sleep(0.02)
    time.sleep(_SETTLE_SECONDS)  # the subscription is on its way


def _end_session(client_id: str) -> None:
    """Let the broker forget it, or it would keep every later message for a listener that is gone."""
    done: list[Any] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
    client.username_pw_set(*account("MQTT_URL"))
    client.on_connect = lambda *_: done.append(client.disconnect())
    client.connect("127.0.0.1", int(os.environ["MQTT_PORT"]), clean_start=True)
    deadline = time.monotonic() + 10
    while not done and time.monotonic() < deadline:
        client.loop(0.1)
    client.loop(0.1)
    if not done:
        raise AssertionError(f"the session {client_id} could not be ended")
