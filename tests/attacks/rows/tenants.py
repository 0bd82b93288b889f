"""One tenant's trouble: locked or missing tables, which must not be felt by any other tenant."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psycopg
from psycopg import sql

from telemetry.services.ingest import batch_writer
from telemetry.services.storage import tenant_writer
from tenants.infrastructure.connection_shares import ConnectionShares
from tenants.infrastructure.database import conninfo
from tests.attacks.arena import Arena
from tests.attacks.attack import Measurement, attack, brake
from tests.attacks.probes import DeviceProbe

_REQUESTS = 16
# Times below are not compared with each other: a request of 5 ms that takes 10 does no harm.
_LEAST_SECONDS = 0.1


@brake("shares of connections")
def without_shares() -> None:
    """Let the requests of one tenant use every connection."""
    ConnectionShares.slot = _always  # type: ignore[method-assign]


@contextmanager
def _always(*_: object, **_kwargs: object) -> Iterator[bool]:
    yield True


@attack(
    "locked-table-requests", "16 requests wait for one tenant's locked table", brake="shares of connections", short=True
)
def locked_table_requests(arena: Arena) -> Measurement:
    """Lock the attacker's table of devices, and read it with twice as many requests as there are connections."""
    _, port = arena.serve()
    neighbour = arena.api_probe(port)
    for _ in range(8):
        neighbour.get()  # the first requests compile templates and open connections
    quiet = arena.quiet(arena.api_probe(port))
    greedy = arena.api_probe(port, tenant=arena.attacker)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            greedy.get()

    readers = [threading.Thread(target=read, daemon=True) for _ in range(_REQUESTS)]
    with _locked(arena.attacker.schema_name, "devices_device"):
        for reader in readers:
            reader.start()
        with neighbour:
            stop.wait(arena.seconds)
        stop.set()
    for reader in readers:
        reader.join(30)
    attacked = neighbour.latencies
    measurement = Measurement({**quiet.figures("quiet_api"), **attacked.figures("attacked_api")})
    measurement.bound("neighbour's requests that failed", attacked.lost, 0)
    measurement.bound("neighbour's p95 in s", attacked.p95, max(_LEAST_SECONDS, 3 * quiet.p95), timed=True)
    return measurement


@brake("time limit of locks in ingest")
def without_lock_timeout() -> None:
    """Let a batch wait for a lock as long as it is held."""
    tenant_writer.LOCK_TIMEOUT_MS = 0


@attack("locked-table-ingest", "one tenant's table is locked", brake="time limit of locks in ingest", short=True)
def locked_table_ingest(arena: Arena) -> Measurement:
    """Lock the attacker's messages while its devices and the neighbour's publish."""
    return _ingest_beside_trouble(arena, lambda: _locked(arena.attacker.schema_name, "telemetry_message"))


@brake("sorting of SQL errors")
def without_sorting() -> None:
    """Treat a faulty schema as an error of the whole listener."""
    batch_writer.is_of_tenant = lambda error: False


@attack("missing-table-ingest", "one tenant's table is missing", brake="sorting of SQL errors")
def missing_table_ingest(arena: Arena) -> Measurement:
    """Rename the attacker's table of totals while its devices and the neighbour's publish."""
    return _ingest_beside_trouble(arena, lambda: _missing(arena.attacker.schema_name, "telemetry_ingesttotals"))


def _ingest_beside_trouble(arena: Arena, trouble: Callable[[], AbstractContextManager[None]]) -> Measurement:
    arena.listen()
    quiet = arena.quiet(arena.device_probe(0))
    neighbour, attacker = arena.device_probe(1), DeviceProbe(arena.attackers[0])
    with attacker, neighbour, trouble():
        time.sleep(arena.seconds)
    attacked = neighbour.latencies
    measurement = Measurement({**quiet.figures("quiet_ingest"), **attacked.figures("attacked_ingest")})
    measurement.bound("neighbour's messages that were not stored", attacked.lost, 0)
    measurement.bound("neighbour's p95 in s", attacked.p95, max(_LEAST_SECONDS, 3 * quiet.p95), timed=True)
    measurement.bound("attacker's messages that were not stored afterwards", attacker.latencies.lost, 0)
    return measurement


@contextmanager
def _missing(schema: str, table: str) -> Iterator[None]:
    names = {
        "table": sql.Identifier(schema, table),
        "gone": sql.Identifier(schema, "gone"),
        "name": sql.Identifier(table),
    }
    with psycopg.connect(conninfo(), autocommit=True) as owner:
        owner.execute(sql.SQL("ALTER TABLE {table} RENAME TO gone").format(**names))
        try:
            yield
        finally:
            owner.execute(sql.SQL("ALTER TABLE {gone} RENAME TO {name}").format(**names))


@contextmanager
def _locked(schema: str, table: str) -> Iterator[None]:
    with psycopg.connect(conninfo()) as blocker:
        blocker.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(schema, table)))
        yield
