"""One row of the matrix as it is played: the servers, the fleet, listeners, a load, and what was measured."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import django.db
import paho.mqtt.client as mqtt
import psycopg
from paho.mqtt.enums import CallbackAPIVersion

from management.embedded.stack import EmbeddedStack
from tenants.infrastructure.database import conninfo
from tests.processes import Process, wait_until

from .fleet import Fleet, Sender
from .invariants import Result, compare
from .ledger import Ledger
from .load import Load, Traffic, plain
from .stored_rows import Books, Found

READY = "Connected to the broker"
# Tenants' tables for `count_in_tenants`: the ledgers of presence, and what is known of each device.
CHANGES, DEVICES = "devices_statuschange", "devices_devicestatus"
# Longer than a listener's longest pause between two tries.
_QUIET_SECONDS = 8.0
_PATIENCE_SECONDS = 150.0


@dataclass(slots=True)
class Stage:
    """What all rows are played on. `seconds` and `rate` (messages a second) are a row's; `logs` a directory."""

    stack: EmbeddedStack
    fleet: Fleet
    rate: float
    seconds: float
    logs: Path
    quiet_seconds: float = _QUIET_SECONDS
    played: Counter[str] = field(default_factory=Counter)


class Scene:
    """One row. Close it, or processes of it stay."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage, self.stack, self.fleet = stage, stage.stack, stage.fleet
        self.rate, self.seconds = stage.rate, stage.seconds
        self.name = name
        self.ledger = Ledger()
        self.measured: list[str] = []
        self.failures: list[str] = []
        self.excused: set[str] = set()
        self.result: Result | None = None
        self._processes: list[Process] = []
        self._client_ids: set[str] = set()
        stage.fleet.reboot()
        django.db.connection.close()
        self.books = Books({schema: [s.device_id for s in stage.fleet.of(schema)] for schema in stage.fleet.schemas})

    # --- processes --------------------------------------------------------------------------------------------

    @property
    def client_id(self) -> str:
        return f"fault-{self.name}-{os.getpid()}"

    def start(self, *command: str, env: Mapping[str, str] | None = None) -> Process:
        """One of the platform's processes, by the words behind `python`."""
        self.stage.played[self.name] += 1
        log = self.stage.logs / f"{self.client_id}-{self.stage.played[self.name]}.log"
        self._processes.append(Process(*command, log=log, env=env))
        return self._processes[-1]

    def listen(self, *options: str, client_id: str = "", env: Mapping[str, str] | None = None) -> Process:
        """A listener, once it is connected."""
        client_id = client_id or self.client_id
        self._client_ids.add(client_id)
        # Every message is looked for afterwards: none may be counted instead of kept.
        env = {"QUARANTINE_SOURCE_MESSAGES": "0", **(env or {})}
        is_lossy = any(option.startswith("--without-") for option in options)
        command = ("-m", "tests.faults.lossy_listener") if is_lossy else ("manage.py", "run_mqtt_listener")
        listener = self.start(*command, "--client-id", client_id, *options, env=env)
        listener.wait_for(READY)
        return listener

    def close(self) -> None:
        """End what this row started and forget the listeners' sessions, which would collect all later traffic."""
        for process in self._processes:
            process.stop()
        for client_id in self._client_ids:
            _forget_session(client_id)

    # --- the load ---------------------------------------------------------------------------------------------

    @contextmanager
    def load(
        self, *, rate: float = 0.0, senders: list[Sender] | None = None, traffic: Traffic = plain
    ) -> Iterator[Load]:
        """The row's load while the block lasts, and until the broker has acknowledged all of it."""
        with Load(self.fleet, rate or self.rate, senders=senders, traffic=traffic, ledger=self.ledger) as load:
            yield load

    def spend(self, share: float) -> None:
        """Wait for a share of the row's seconds."""
        time.sleep(share * self.seconds)

    # --- the books --------------------------------------------------------------------------------------------

    def settle(self) -> Result:
        """Compare, once every acknowledged message is accounted for or nothing more comes."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        count, changed_at = -1, time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(0.3)
            now = self._count()
            if now != count:
                count, changed_at = now, time.monotonic()
            elif count >= self.ledger.names() and not self._compare().failures():
                break
            if time.monotonic() - changed_at > self.stage.quiet_seconds:
                break
        self.result = result = self._compare()
        return result

    def _compare(self) -> Result:
        return compare(self.ledger, self.books.read(), excused=frozenset(self.excused))

    def _count(self) -> int:
        try:
            return self.books.count()
        except psycopg.OperationalError:
            return -1

    def found(self) -> Found:
        """What is there now."""
        return self.books.read()

    def stored_since(self, moment: float) -> int:
        """How many messages became visible after the moment."""
        return sum(place[2] > moment for places in self.found().stored.values() for place in places)

    def await_progress(self, moment: float, timeout: float = 60.0) -> float:
        """Seconds from the moment until a message is stored that came after it."""
        before = self._count()
        wait_until(lambda: self._count() > max(before, 0), timeout, "nothing is stored any more")
        return time.time() - moment

    def await_caught_up(self, moment: float, timeout: float = 60.0) -> float:
        """Seconds from the moment until what is acknowledged by now is stored."""
        acknowledged = self.ledger.names()
        wait_until(lambda: self.books.settled() >= acknowledged, timeout, "what waited is not stored")
        return time.time() - moment

    # --- words ------------------------------------------------------------------------------------------------

    def measure(self, words: str) -> None:
        self.measured.append(words)

    def require(self, holds: Any, words: str) -> None:
        """What must hold in this row beside the invariants; `words` say what does not."""
        if not holds:
            self.failures.append(words)

    def count_in_tenants(self, table: str, condition: str = "true") -> int:
        """How many rows of the tenants' tables of that name there are."""
        counts = " UNION ALL ".join(
            f'SELECT count(*) AS n FROM "{schema}".{table} WHERE {condition}'  # noqa: S608 (our own schemas)
            for schema in self.fleet.schemas
        )
        return int(self.query(f"SELECT sum(n) FROM ({counts}) AS t")[0][0])  # noqa: S608

    def query(self, statement: str, *parameters: Any, autocommit: bool = True) -> list[tuple[Any, ...]]:
        """On a connection of its own, which no fault before has broken."""
        with psycopg.connect(conninfo(), autocommit=autocommit, connect_timeout=5) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def _forget_session(client_id: str) -> None:
    """Connect with a clean start, which ends the session of that name."""
    url = urlsplit(os.environ["MQTT_URL"])
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
    client.username_pw_set(unquote(url.username or ""), unquote(url.password or ""))
    client.connect(url.hostname or "localhost", url.port or 1883)
    deadline = time.monotonic() + 10
    while not client.is_connected() and time.monotonic() < deadline:
        client.loop(0.1)
    client.disconnect()
