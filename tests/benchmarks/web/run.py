"""The run of the benchmark `api`: two revisions' web servers on the same rows, request after request."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from management.embedded.server import BASE_DIR
from tests.benchmarks.revisions import checked_out

from . import data, load_client
from .requests import ApiClient, ApiRequest, requests_of
from .servers import Meter, WebServer, server_pids

_MONTHS, _MONTH = 13, 1
_WARM_UP = 12


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured: `base` is the older revision, without one only the checkout; `only` are names of requests."""

    base: str = ""
    rounds: int = 3
    devices: int = 1000
    scale: float = 1.0
    seconds: float = 5.0
    only: tuple[str, ...] = ()
    load: bool = True


def run(asked: Asked, logs: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure and verify; return the figures by label (`base`, `head`). Raises AssertionError for a wrong answer."""
    say("Making two tenants")
    data.migrate()
    many = data.make_tenant("many", devices=asked.devices, months=_MONTHS)
    few = data.make_tenant("few", devices=min(100, asked.devices), months=_MONTH)
    data.vacuum()
    wanted = [one for one in requests_of(many, few, asked.scale) if not asked.only or one.name in asked.only]
    with _servers(asked, logs, say) as servers:
        figures: dict[str, Any] = {label: {} for label in servers}
        _compare_answers(wanted, servers)
        rounds = [_round(wanted, servers, number, say) for number in range(asked.rounds)]
        for label in servers:
            figures[label]["requests"] = {one.name: _median(one, [row[label] for row in rounds]) for one in wanted}
        if asked.load:
            for label, server in servers.items():
                say(f"Load on {label}")
                figures[label] |= _loads(server, many, few, asked.seconds)
    return {"devices": many.devices, "months": many.months, "readings": len(data.METRICS) * len(many.stored), **figures}


@contextmanager
def _servers(asked: Asked, logs: Path, say: Callable[[str], None]) -> Iterator[dict[str, WebServer]]:
    with ExitStack() as stack:
        found = {}
        if asked.base:
            base = stack.enter_context(checked_out(asked.base, say))
            found["base"] = WebServer(base.directory, logs / "web-base.log", str(base.python))
            stack.callback(found["base"].close)
        found["head"] = WebServer(BASE_DIR, logs / "web-head.log", sys.executable)
        stack.callback(found["head"].close)
        yield found


def _compare_answers(wanted: list[ApiRequest], servers: dict[str, WebServer]) -> None:
    """Verify each answer, and that the newer revision's has every member of the older one's, with the same values."""
    for request in wanted:
        bodies = {label: ApiClient(server.port).get(request) for label, server in servers.items()}
        for body in bodies.values():
            request.verify(body)
        if "base" in bodies and request.name != "export":
            ports = {f":{server.port}".encode() for server in servers.values()}
            old, new = (_document(bodies[label], ports) for label in ("base", "head"))
            _contains(new, old, request.name)


def _document(body: bytes, ports: set[bytes]) -> Any:
    for port in ports:
        body = body.replace(port, b"")
    return json.loads(body)


def _contains(new: Any, old: Any, where: str) -> None:
    if isinstance(old, dict):
        for name, value in old.items():
            assert name in new, f"{where}: {name} is missing"
            _contains(new[name], value, f"{where}.{name}")
    elif isinstance(old, list):
        assert len(new) == len(old), f"{where}: {len(new)} instead of {len(old)}"
        for number, value in enumerate(old):
            _contains(new[number], value, f"{where}[{number}]")
    else:
        assert new == old, f"{where}: {new!r} instead of {old!r}"


def _round(
    wanted: list[ApiRequest], servers: dict[str, WebServer], number: int, say: Callable[[str], None]
) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {label: {} for label in servers}
    for request in wanted:
        labels = list(servers)
        if number % 2:  # so that neither always follows the other
            labels.reverse()
        for label in labels:
            found[label][request.name] = _measure(request, servers[label])
        costs = ", ".join(f"{label} {found[label][request.name]['ms']:.2f}" for label in servers)
        say(f"Round {number + 1}, {request.name}, ms: {costs}")
    return found


def _measure(request: ApiRequest, server: WebServer) -> dict[str, float]:
    """Return the processor time of one request in ms: in all, of the web processes, of PostgreSQL and of Redis."""
    client, meter = ApiClient(server.port), Meter(server, *server_pids())
    for _ in range(min(_WARM_UP, request.times)):
        client.get(request)
    bodies: set[bytes] = set()
    began = time.perf_counter()
    with meter.measure() as found:
        for _ in range(request.times):
            bodies.add(client.get(request))
    took = time.perf_counter() - began
    client.close()
    for body in bodies:
        request.verify(body)
    spent = found[0]
    parts = {"web": spent.web, "postgresql": spent.postgresql, "redis": spent.redis}
    each = {name: 1000 * seconds / request.times for name, seconds in parts.items()}
    return {"ms": each["web"] + each["postgresql"], **each, "wall_ms": 1000 * took / request.times}


def _median(request: ApiRequest, rows: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    costs = [row[request.name] for row in rows]
    found: dict[str, Any] = {name: round(statistics.median(cost[name] for cost in costs), 2) for name in costs[0]}
    if request.rows > 1:
        found["rows_per_processor_second"] = round(1000 * request.rows / found["ms"])
        found["rows_per_second"] = round(1000 * request.rows / found["wall_ms"])
    if request.goal_ms is not None:
        found |= {"at_most": request.goal_ms, "met": found["ms"] <= request.goal_ms}
    return found


def _loads(server: WebServer, many: data.BenchTenant, few: data.BenchTenant, seconds: float) -> dict[str, Any]:
    latest = _load(server, many, f"devices/{many.dense}/latest/", seconds, connections=8)
    meter = Meter(server, *server_pids())
    with meter.measure() as found:
        busy = load_client.result(load_client.start(latest))
    spent = found[0]
    processor = spent.web + spent.postgresql + spent.redis
    return {
        "latest_under_load": {
            "requests_per_second": round(busy["requests"] / busy["seconds"], 1),
            "ms_of_processor": round(1000 * processor / busy["requests"], 2),
            "processors_used": round(processor / busy["seconds"], 2),
            "p95_ms": _percentile(busy["latencies_ms"]),
            "answers": busy["statuses"],
        },
        "neighbour": _neighbour(server, many, few, seconds),
    }


def _neighbour(server: WebServer, many: data.BenchTenant, few: data.BenchTenant, seconds: float) -> dict[str, Any]:
    """Return the latencies of one tenant alone, and beside four greedy clients of another."""
    quiet = _load(server, few, f"devices/{few.dense}/latest/", seconds, pause=0.01)
    greedy = _load(server, many, "devices/?limit=1000", seconds + 2, connections=4)
    alone = load_client.result(load_client.start(quiet))
    eating = load_client.start(greedy)
    time.sleep(1.0)
    beside = load_client.result(load_client.start(quiet))
    eaten = load_client.result(eating)
    figures = [_percentile(one["latencies_ms"]) for one in (alone, beside)]
    return {
        "p95_ms_alone": figures[0],
        "p95_ms_beside_greedy": figures[1],
        "ratio": round(figures[1] / figures[0], 2),
        "answers": beside["statuses"],
        "greedy_answers": eaten["statuses"],
        "greedy_p50_ms": round(statistics.median(eaten["latencies_ms"]), 1),
    }


def _load(server: WebServer, tenant: data.BenchTenant, path: str, seconds: float, **options: Any) -> load_client.Load:
    return load_client.Load(
        server.port, f"/t/{tenant.tenant.slug}/api/v1/{path}", tenant.key, seconds=seconds, **options
    )


def _percentile(ordered: list[float]) -> float:
    return round(ordered[int(0.95 * len(ordered))], 2)
