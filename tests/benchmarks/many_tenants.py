"""Ingest of many small tenants beside a few large ones with as many devices: the processor time of a message.

Messages are sent at a steady rate. Specifications are read again ten times their time to live after they were read, so
a shorter one lets a short run contain as much refreshing as a long one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from django.core.management import call_command

from management.embedded.stack import EmbeddedStack
from tenants.infrastructure.database import conninfo

from .ingest.bench import Bench
from .ingest.fleet import Fleet, make_fleet
from .ingest.load import LoadMaker
from .ingest.options import Options
from .ingest.tables import verify
from .ingest.throughput import warm_up

# Of the listener and PostgreSQL together, many tenants to few.
GOAL = 1.3
_COUNTED = ("listener", "postgres")
_LEAST_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Size:
    """`devices` in all, spread over `many` tenants and over `few`; messages a second for some seconds."""

    many: int
    few: int
    devices: int
    rate: int
    seconds: float
    spec_ttl: float


def run(size: Size, stack: EmbeddedStack, directory: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure both, and return the figures. Raises AssertionError when a message is missing or elsewhere."""
    call_command("migrate_schemas", shared=True, verbosity=0)
    with psycopg.connect(conninfo(application_name="bench-look"), autocommit=True) as look:
        bench = Bench(Options(), stack, directory, look, LoadMaker(directory))
        fleets = {}
        for name, tenants in (("few", size.few), ("many", size.many)):
            say(f"Registering {size.devices} devices of {tenants} tenants, with their keys")
            slug = f"{name}-{uuid4().hex[:6]}"
            fleets[name] = make_fleet(slug, devices=size.devices, tenants=tenants, version_2_share=0.5)
        measured = {}
        for name, fleet in fleets.items():
            measured[name] = _measure(bench, size, fleet, list(fleets.values()))
            say(f"{name} tenants: {measured[name]['cpu_us_per_message']} µs of processor time a message")
    least = min(measured[name]["cpu_s"][part] for name in measured for part in _COUNTED)
    ratio = measured["many"]["cpu_us_per_message"] / measured["few"]["cpu_us_per_message"]
    return {
        "tenants": {"few": size.few, "many": size.many},
        "devices": size.devices,
        "spec_ttl_seconds": size.spec_ttl,
        **measured,
        "ratio": round(ratio, 3) if least >= _LEAST_SECONDS else None,
        "goal": GOAL,
        "met": ratio <= GOAL if least >= _LEAST_SECONDS else None,
    }


def _measure(bench: Bench, size: Size, fleet: Fleet, fleets: list[Fleet]) -> dict[str, Any]:
    with bench.listeners(1, {"INGEST_SPEC_TTL": str(size.spec_ttl)}) as programs:
        warm_up(bench, fleet, programs, passes=1)
        load = bench.loads.make(fleet, int(size.rate * size.seconds), samples=100)
        expected = {schema: fleet.sent[schema] for schema in load.by_schema}
        with bench.publisher(load, rate=size.rate) as publisher:
            meter = bench.meter(listener=[programs[0].pid], publisher=[publisher.pid])
            before = meter.read()
            publisher.write_line()
            publisher.result()
            bench.wait_stored(expected, programs)
            after = meter.read()
        verify(bench.look, fleets, load)
    spent = {name: round(after[name] - before[name], 2) for name in before}
    counted = sum(spent[name] for name in _COUNTED)
    return {
        "messages": load.messages,
        "cpu_s": spent,
        "cpu_us_per_message": round(1e6 * counted / load.messages, 1),
    }
