"""One row of the matrix while it runs: servers, fleet, listeners, load and measurements."""

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
from tests.certificates import add_tls_listener, make_certificates
from tests.processes import Process, wait_until

from .fleet import Fleet, Sender
from .invariants import LedgerComparison, compare
from .ledger import Ledger
from .load import Load, Traffic, plain
from .stored_rows import StoredRows, TableContents

READY = "Connected to the broker"
# Tenants' tables for `count_in_tenants`: the ledgers of presence, and what is known of each device.
CHANGES, DEVICES = "devices_statuschange", "devices_devicestatus"
# Longer than a listener's longest pause between two tries.
_QUIET_SECONDS = 8.0
_PATIENCE_SECONDS = 150.0


@dataclass(slots=True)
class Setup:
    """Servers and devices of all rows; `seconds` and `rate` (messages a second) of each; `logs` is a directory.

    Unless it `is_timed`, delays are measured and not evaluated: they depend on what else the machine does.
    """

    stack: EmbeddedStack
    fleet: Fleet
    rate: float
    seconds: float
    logs: Path
    quiet_seconds: float = _QUIET_SECONDS
    is_timed: bool = True
    played: Counter[str] = field(default_factory=Counter)
    tls: dict[str, str] = field(default_factory=dict)


class Scenario:
    """One row. `close` it, or its processes stay."""

    def __init__(self, setup: Setup, name: str) -> None:
        self.setup, self.stack, self.fleet = setup, setup.stack, setup.fleet
        self.rate, self.seconds = setup.rate, setup.seconds
        self.name = name
        self.message_ledger = Ledger()
        self.measured: list[str] = []
        self.failures: list[str] = []
        self.excused: set[str] = set()
        self.result: LedgerComparison | None = None
        self._processes: list[Process] = []
        self._client_ids: set[str] = set()
        setup.fleet.reboot()
        django.db.connection.close()
        self.stored_rows = StoredRows(
            {schema: [s.device_id for s in setup.fleet.senders_of(schema)] for schema in setup.fleet.schemas}
        )

    # --- processes --------------------------------------------------------------------------------------------

    @property
    def client_id(self) -> str:
        return f"fault-{self.name}-{os.getpid()}"

    def start(self, *command: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a process of the platform; `command` are the arguments of `python`."""
        self.setup.played[self.name] += 1
        log = self.setup.logs / f"{self.client_id}-{self.setup.played[self.name]}.log"
        self._processes.append(Process(*command, log=log, env=env))
        return self._processes[-1]

    def listen(self, *options: str, client_id: str = "", env: Mapping[str, str] | None = None) -> Process:
        """Start a listener, and wait until it is connected."""
        client_id = client_id or self.client_id
        self._client_ids.add(client_id)
        # Every message is searched afterwards: none may only be counted.
        env = {"QUARANTINE_SOURCE_MESSAGES": "0", **(env or {})}
        is_lossy = any(option.startswith("--without-") for option in options)
        command = ("-m", "tests.faults.lossy_listener") if is_lossy else ("manage.py", "run_mqtt_listener")
        listener = self.start(*command, "--client-id", client_id, *options, env=env)
        listener.wait_for(READY)
        return listener

    def tls(self) -> dict[str, str]:
        """Return the environment of a process that reaches the broker over TLS; the broker is restarted for it."""
        if not self.setup.tls:
            self.setup.tls = add_tls_listener(self.stack, make_certificates(self.setup.logs))
        return self.setup.tls

    def close(self) -> None:
        """End this row's processes and its listeners' sessions, which would queue all later traffic."""
        for process in self._processes:
            process.stop()
        for client_id in self._client_ids:
            forget_session(client_id)

    # --- the load ---------------------------------------------------------------------------------------------

    @contextmanager
    def load(
        self, *, rate: float = 0.0, senders: list[Sender] | None = None, traffic: Traffic = plain
    ) -> Iterator[Load]:
        """Publish the row's load while the block lasts, and wait until the broker has acknowledged all of it."""
        with Load(
            self.fleet, rate or self.rate, senders=senders, traffic=traffic, message_ledger=self.message_ledger
        ) as load:
            yield load

    def spend(self, share: float) -> None:
        """Sleep for a share of the row's seconds."""
        time.sleep(share * self.seconds)

    # --- stored rows ------------------------------------------------------------------------------------------

    def settle(self) -> LedgerComparison:
        """Return the comparison, once every acknowledged message is accounted for or nothing changes any more."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        count, changed_at = -1, time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(0.3)
            now = self._count()
            if now != count:
                count, changed_at = now, time.monotonic()
            elif count >= self.message_ledger.names() and not self._compare().failures():
                break
            if time.monotonic() - changed_at > self.setup.quiet_seconds:
                break
        self.result = result = self._compare()
        return result

    def _compare(self) -> LedgerComparison:
        return compare(self.message_ledger, self.stored_rows.read(), excused=frozenset(self.excused))

    def _count(self) -> int:
        try:
            return self.stored_rows.count()
        except psycopg.OperationalError:
            return -1

    def found(self) -> TableContents:
        """Return what the tables contain now."""
        return self.stored_rows.read()

    def stored_since(self, moment: float) -> int:
        """Return how many messages became visible after the moment."""
        return sum(place[2] > moment for places in self.found().stored.values() for place in places)

    def await_progress(self, moment: float, timeout: float = 60.0) -> float:
        """Return the seconds from the moment until a later message is stored."""
        before = self._count()
        wait_until(lambda: self._count() > max(before, 0), timeout, "nothing is stored any more")
        return time.time() - moment

    def await_caught_up(self, moment: float, timeout: float = 60.0) -> float:
        """Return the seconds from the moment until all messages acknowledged by now are stored."""
        acknowledged = self.message_ledger.names()
        wait_until(lambda: self.stored_rows.settled() >= acknowledged, timeout, "deferred messages are not stored")
        return time.time() - moment

    # --- measurements -----------------------------------------------------------------------------------------

    def measure(self, text: str) -> None:
        """Add a measurement to the report."""
        self.measured.append(text)

    def require(self, holds: Any, failure: str) -> None:
        """Fail the row with the text `failure` unless the condition holds."""
        if not holds:
            self.failures.append(failure)

    def require_in_time(self, holds: Any, failure: str) -> None:
        """Fail the row as `require` does, where delays are evaluated."""
        self.require(holds or not self.setup.is_timed, failure)

    def count_in_tenants(self, table: str, condition: str = "true") -> int:
        """Return the number of rows in the tenants' tables of that name."""
        counts = " UNION ALL ".join(
            f'SELECT count(*) AS n FROM "{schema}".{table} WHERE {condition}'  # noqa: S608 (our own schemas)
            for schema in self.fleet.schemas
        )
        return int(self.query(f"SELECT sum(n) FROM ({counts}) AS t")[0][0])  # noqa: S608

    def query(self, statement: str, *parameters: Any, autocommit: bool = True) -> list[tuple[Any, ...]]:
        """Run the statement on a new connection, which no earlier fault has broken."""
        with psycopg.connect(conninfo(), autocommit=autocommit, connect_timeout=5) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def forget_session(client_id: str) -> None:
    """Connect with a clean start, which ends the session of that name."""
    url = urlsplit(os.environ["MQTT_URL"])
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
    client.username_pw_set(unquote(url.username or ""), unquote(url.password or ""))
    client.connect(url.hostname or "localhost", url.port or 1883)
    deadline = time.monotonic() + 10
    while not client.is_connected() and time.monotonic() < deadline:
        client.loop(0.1)
    client.disconnect()
