"""A burst through each way to take it: from the first message sent until the last row is committed."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import node_red, old_way
from .bench import Bench, resident
from .fleet import Fleet
from .load import Load
from .processes import Program, machine_seconds
from .tables import verify

_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0
# What a message costs: these processes together.
_COUNTED = ("listener", "postgres", "mosquitto")
# So often each device is heard before two listeners that share are measured: each must know all keys.
_SHARED_WARM_UPS = 8


def listeners(
    bench: Bench, fleet: Fleet, count: int, *, fleets: list[Fleet], env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The platform's listeners, so many; `env` overrides their environment."""
    with bench.listeners(count, env) as programs:
        warm_up(bench, fleet, programs, passes=_SHARED_WARM_UPS if count > 1 else 1)
        load = bench.loads.make(fleet, bench.options.messages, samples=bench.options.samples)
        expected = {schema: fleet.sent[schema] for schema in load.by_schema}
        figures = _burst(
            bench, load, [program.pid for program in programs], lambda: bench.wait_stored(expected, programs)
        )
        figures["listener_rss_mb"] = resident(programs)
        verify(bench.look, fleets, load)
    return figures


def old(bench: Bench, fleet: Fleet, *, lean: bool) -> dict[str, Any]:
    """The old way, or the same without its lookups."""
    load = bench.loads.make(fleet, bench.options.old_messages, samples=bench.options.samples)
    fleet.sent -= load.by_schema  # they do not reach the platform's tables
    secrets = {sender.uuid: sender.secret for sender in fleet.senders}
    with Program("-m", old_way.__name__, log=bench.log("old-way")) as program:
        program.write_line(json.dumps({"devices": secrets, "lean": lean}))
        program.wait_ready()
        figures = _burst(bench, load, [program.pid], lambda: _wait_counted(bench, program, load.messages))
        _verify_old(bench, load)
    return figures


def with_node_red(bench: Bench, fleet: Fleet) -> dict[str, Any] | None:
    """Node-RED; None where it is not installed."""
    installation = node_red.find(bench.options.node_red)
    if isinstance(installation, str):
        return None
    load = bench.loads.make(fleet, bench.options.node_red_messages, samples=0)
    fleet.sent -= load.by_schema
    with node_red.running(installation, fleet, bench.look, bench.directory) as program:
        figures = _burst(bench, load, [program.pid], lambda: _wait_node_red(bench, load.messages))
    if node_red.stored(bench.look) != (load.messages, 3 * load.messages):
        raise AssertionError(f"Node-RED stored {node_red.stored(bench.look)} of {load.messages} messages")
    return figures


def receive(bench: Bench, fleet: Fleet) -> dict[str, Any]:
    """A paho client that receives and acknowledges, and does nothing else."""
    load = bench.loads.make(fleet, bench.options.messages, samples=0)
    fleet.sent -= load.by_schema
    command = ["-m", "tests.benchmarks.ingest.receiver", "--messages", str(load.messages)]
    with Program(*command, log=bench.log("receiver")) as program:
        program.wait_ready()
        return _burst(bench, load, [program.pid], lambda: float(program.result()["ended"]))


def warm_up(bench: Bench, fleet: Fleet, programs: list[Program], *, passes: int) -> None:
    """Let each device be heard, so that specifications, keys, series and plans are where they are in operation."""
    for _ in range(passes):
        load = bench.loads.make(fleet, len(fleet.senders), samples=0)
        with bench.publisher(load) as publisher:
            publisher.write_line()
            publisher.result()
        bench.wait_stored({schema: fleet.sent[schema] for schema in load.by_schema}, programs)


def _burst(bench: Bench, load: Load, pids: list[int], wait: Callable[[], float]) -> dict[str, Any]:
    """Publish the load as fast as the broker takes it; `wait` returns when the last message was done."""
    with bench.publisher(load) as publisher:
        meter = bench.meter(listener=pids, publisher=[publisher.pid])
        before, machine = meter.read(), machine_seconds()
        publisher.write_line()
        ended = wait()
        after, later = meter.read(), machine_seconds()
        published = publisher.result()
    seconds = ended - published["began"]
    spent = {name: after[name] - before[name] for name in before}
    counted = sum(spent[name] for name in _COUNTED)
    return {
        "messages": load.messages,
        "seconds": round(seconds, 3),
        "published_in_s": round(published["ended"] - published["began"], 3),
        "messages_per_s": round(load.messages / seconds, 1),
        "rows_per_s": round(4 * load.messages / seconds, 1),
        "cpu_s": {name: round(value, 2) for name, value in spent.items()},
        "cpu_us_per_message": round(1e6 * counted / load.messages, 1),
        "machine_busy": round((later[0] - machine[0]) / max(later[1] - machine[1], 0.01), 3),
    }


def _wait_counted(bench: Bench, program: Program, messages: int) -> float:
    """Until the old way has given out so many message ids and all of them are committed."""
    query = "SELECT max(id) FROM old_way.old_way_message"

    def seen() -> int:
        row = bench.look.execute(query).fetchone()
        return int(row[0] or 0) if row else 0

    _wait(lambda: seen() >= messages, lambda: f"{seen()} of {messages}: {program.last_words()}")
    _wait(lambda: _count_old(bench, "message") == messages, lambda: f"{_count_old(bench, 'message')} of {messages}")
    return time.monotonic()


def _wait_node_red(bench: Bench, messages: int) -> float:
    """Until the last id has come; then until all are committed."""
    query = "SELECT max(id) FROM node_red.message"

    def seen() -> int:
        row = bench.look.execute(query).fetchone()
        return int(row[0] or 0) if row else 0

    log: Path = bench.directory / "node-red" / "log"
    _wait(lambda: seen() >= messages, lambda: f"{seen()} of {messages}: {log.read_text()[-2000:]}")
    _wait(lambda: node_red.stored(bench.look)[0] == messages, lambda: f"{node_red.stored(bench.look)} of {messages}")
    return time.monotonic()


def _wait(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"the last message did not arrive: {explain()}")
        time.sleep(_POLL_SECONDS)


def _count_old(bench: Bench, table: str) -> int:
    row = bench.look.execute(f"SELECT count(*) FROM old_way.old_way_{table}").fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def _verify_old(bench: Bench, load: Load) -> None:
    counts = _count_old(bench, "message"), _count_old(bench, "reading")
    if counts != (load.messages, 3 * load.messages):
        raise AssertionError(f"the old way stored {counts} of {load.messages} messages")
    for sample in load.samples:
        rows = bench.look.execute(
            "SELECT r.metric, r.value, r.unit FROM old_way.old_way_reading AS r"
            " JOIN old_way.old_way_device AS d ON d.id = r.device_id"
            " WHERE d.uuid = %s AND r.timestamp = %s",
            [sample.sender.uuid, sample.time],
        ).fetchall()
        if {metric: (value, unit) for metric, value, unit in rows} != sample.readings:
            raise AssertionError(f"the old way's readings of message {sample.number}: {rows}")
