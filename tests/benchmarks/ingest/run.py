"""The order of a run: fleets, rounds in which each part takes its turn, then what is measured once."""

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from django.conf import settings
from django.core.management import call_command

from management.embedded.stack import EmbeddedStack
from tenants.infrastructure.database import conninfo
from tests.certificates import add_tls_listener, make_certificates

from . import copying, goals, latency, memory, node_red, throughput
from .bench import Bench
from .fleet import Fleet, make_fleet
from .load import LoadMaker
from .options import Options

_BURSTS = ("one", "one_tls", "two", "old", "old_lean", "node_red", "receive", "copy", "tenants")


def run(options: Options, stack: EmbeddedStack, directory: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, verify, and return the figures. Raises AssertionError when a row is missing, wrong or elsewhere."""
    call_command("migrate_schemas", shared=True, verbosity=0)
    with psycopg.connect(conninfo(application_name="bench-look"), autocommit=True) as look:
        bench = Bench(options, stack, directory, look, LoadMaker(directory))
        return _Run(bench, say).measure()


class _Run:
    def __init__(self, bench: Bench, say: Callable[[str], None]) -> None:
        self._bench = bench
        self._options = bench.options
        self._say = say
        self._fleets: list[Fleet] = []
        self._tls: dict[str, str] = {}
        self._slug = f"bench-{uuid4().hex[:6]}"

    def measure(self) -> dict[str, Any]:
        options = self._options
        rounds: list[dict[str, Any]] = []
        latencies: list[dict[str, Any]] = []
        if options.wants(*_BURSTS, "latency"):
            if options.wants("one_tls"):
                self._tls = add_tls_listener(self._bench.stack, make_certificates(self._bench.directory))
            one = self._fleet("one", options.devices, 1)
            many = self._fleet("many", options.devices, options.tenants) if options.wants("tenants") else None
            for number in range(options.rounds):
                rounds.append(self._round(number, one, many))
                latencies += self._latencies(number, one)
        held = self._memory() if options.wants("memory") else None
        found = goals.ratios(rounds)
        return {
            "machine": _machine(self._bench.look),
            "options": _shown(options),
            "node_red": _node_red(options),
            "rounds": rounds,
            "medians": _medians(rounds),
            "latency": latencies,
            "memory": held,
            "ratios": found,
            "goals": goals.evaluate(found, latencies, held),
        }

    def _fleet(self, name: str, devices: int, tenants: int) -> Fleet:
        self._say(f"Registering {devices} devices of {tenants} tenant(s), with their keys")
        fleet = make_fleet(
            f"{self._slug}-{name}",
            devices=devices,
            tenants=tenants,
            version_2_share=self._options.version_2_share,
        )
        self._fleets.append(fleet)
        return fleet

    def _round(self, number: int, one: Fleet, many: Fleet | None) -> dict[str, Any]:
        """Each part once. Every second round goes backwards, so that no part always follows the same other."""
        bench, fleets = self._bench, self._fleets
        parts: list[tuple[str, str, Callable[[], dict[str, Any] | None]]] = [
            ("old", "old", lambda: throughput.old(bench, one, lean=False)),
            ("old_lean", "old_lean", lambda: throughput.old(bench, one, lean=True)),
            ("one", "one", lambda: throughput.listeners(bench, one, 1, fleets=fleets)),
            ("one_tls", "one_tls", lambda: throughput.listeners(bench, one, 1, fleets=fleets, env=self._tls)),
            ("two", "two", lambda: throughput.listeners(bench, one, 2, fleets=fleets)),
            ("node_red", "node_red", lambda: throughput.with_node_red(bench, one)),
            ("receive", "receive", lambda: throughput.receive(bench, one)),
        ]
        if many is not None:
            parts.append(("tenants", "many_tenants", lambda: throughput.listeners(bench, many, 1, fleets=fleets)))
            if not self._options.wants("one"):
                parts.append(("tenants", "one", lambda: throughput.listeners(bench, one, 1, fleets=fleets)))
        measured: dict[str, Any] = {}
        for part, name, take in parts if number % 2 == 0 else reversed(parts):
            if self._options.wants(part):
                measured[name] = self._take(number, name, take)
        # Of what the listener has stored in this round.
        if self._options.wants("copy") and one.sent.total():
            rows = min(self._options.messages, one.sent.total())
            measured["copy"] = self._take(number, "copy", lambda: copying.run(bench, one, rows))
        return measured

    def _take(self, number: int, name: str, take: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        figures = take()
        speed = "not installed"
        if figures:
            speed = f"{figures['messages_per_s']:,.0f} messages/s"
        if figures and "cpu_us_per_message" in figures:
            speed += f", {figures['cpu_us_per_message']:,.0f} µs of processor time a message"
        self._say(f"Round {number + 1}, {name}: {speed}")
        return figures

    def _latencies(self, number: int, one: Fleet) -> Iterator[dict[str, Any]]:
        for rate in self._options.rates if self._options.wants("latency") else ():
            figures = latency.run(self._bench, one, rate, fleets=self._fleets)
            self._say(f"Round {number + 1}, {rate}/s: p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms")
            yield figures

    def _memory(self) -> dict[str, Any]:
        fleet = self._fleet("known", self._options.known_devices, 1)
        self._say(f"Each is heard once, then {self._options.minutes} minutes of load")
        return memory.run(self._bench, fleet, fleets=self._fleets)


def _medians(rounds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    parts = {name for row in rounds for name, figures in row.items() if figures}
    medians: dict[str, dict[str, float]] = {}
    for name in sorted(parts):
        rows = [row[name] for row in rounds if row.get(name)]
        shown = [figure for figure in rows[0] if isinstance(rows[0][figure], int | float)]
        medians[name] = {figure: round(statistics.median(row[figure] for row in rows), 2) for figure in shown}
    return medians


def _machine(look: psycopg.Connection) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "postgresql": look.info.server_version // 10_000,
        "mosquitto": _version(["mosquitto", "-h"]),
        "batch_messages": settings.INGEST_BATCH_MESSAGES,
        "batch_seconds": settings.INGEST_BATCH_SECONDS,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _version(command: list[str]) -> str | None:
    try:
        said = subprocess.run(command, capture_output=True, text=True).stdout
    except FileNotFoundError:
        return None
    return said.splitlines()[0].rpartition(" ")[2] if said else None


def _node_red(options: Options) -> str | None:
    """Why it is not measured, or which program is."""
    if not options.wants("node_red"):
        return None
    found = node_red.find(options.node_red)
    return found if isinstance(found, str) else found.program


def _shown(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in Options.__slots__}
