"""One tenant's trouble: locked or missing tables, which must not be felt by any other tenant."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from tenants.infrastructure.connection_shares import ConnectionShares
from tenants.infrastructure.database import conninfo
from tests.attacks.arena import Arena
from tests.attacks.attack import Measurement, attack, brake

_REQUESTS = 16
# Times below are not compared with each other: a request of 5 ms that takes 10 is no harm.
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
    measurement.bound("neighbour's p95 in s", attacked.p95, max(_LEAST_SECONDS, 3 * quiet.p95))
    return measurement


@contextmanager
def _locked(schema: str, table: str) -> Iterator[None]:
    with psycopg.connect(conninfo()) as blocker:
        blocker.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(schema, table)))
        yield
