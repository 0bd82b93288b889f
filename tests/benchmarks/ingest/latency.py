"""From a message's sending until its readings can be queried, at a steady rate.

The publisher notes, for every message, the moment (the system's monotonic clock) just before it hands it to the
system. This process asks PostgreSQL over a connection of its own, every two milliseconds, which of some messages'
readings can be seen now: fifty messages a second, evenly spread, looked up through the index that queries use; only
those that were sent and not seen yet are in the query, the twenty oldest at most. A message counts as visible at the
moment the answer that holds it has come. So a latency is too long by up to the resolution (two milliseconds and an
answer; five per cent where messages wait longer than 40 ms), and never too short. What looking costs is in the figures,
as `watching` and `watching_backend`; the latter is not counted as PostgreSQL's.

A rate is held when the publisher kept its pace, and everything was there within a second of the last message.
"""

import statistics
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from psycopg import sql

from .bench import Bench, resident
from .fleet import Fleet
from .load import Load, Sample
from .processes import cpu_seconds
from .tables import verify
from .throughput import warm_up

_POLL_SECONDS = 0.002
_LOOKED_FOR_PER_SECOND = 50
# Where messages wait long, looking every two milliseconds would make them wait longer.
_COARSENESS = 0.05
_ASKED_AT_ONCE = 20
# One index lookup for each, whatever the statistics of a table that grows say; planned once.
_CHEAPLY = "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan"
_PATIENCE_SECONDS = 60.0
_HELD_SECONDS = 1.0
_PACE = 0.99
# The first second finds caches of the broker and the database as the warm-up left them.
_SKIPPED_SECONDS = 1.0


@dataclass(slots=True)
class _Seen:
    """When each sample was first seen, by its number in the load."""

    at: dict[int, float]
    last: float
    polls: int


def run(bench: Bench, fleet: Fleet, rate: int, *, fleets: list[Fleet]) -> dict[str, Any]:
    """Latency at `rate` messages a second through one listener."""
    seconds = bench.options.latency_seconds
    with bench.listeners(1) as programs:
        warm_up(bench, fleet, programs, passes=1)
        load = bench.loads.make(fleet, int(rate * seconds), samples=int(_LOOKED_FOR_PER_SECOND * seconds))
        with bench.publisher(load, rate=rate) as publisher:
            pid = programs[0].pid
            meter = bench.meter(listener=[pid], publisher=[publisher.pid])
            before, own, backend = meter.read(), time.process_time(), _backend(bench)
            began = time.monotonic()
            publisher.write_line()
            seen = _watch(bench, load, rate, began)
            expected = {schema: fleet.sent[schema] for schema in load.by_schema}
            ended = bench.wait_stored(expected, programs)
            after, looked = meter.read(), round(_backend(bench) - backend, 2)
            published = publisher.result()
        memory = resident(programs)
        verify(bench.look, fleets, load)
    stamps = array("d")
    stamps.frombytes(bench.stamps.read_bytes())
    behind = sorted(stamp - (stamps[0] + number / rate) for number, stamp in enumerate(stamps))
    kept = (len(stamps) - 1) / max(1e-9, stamps[-1] - stamps[0])
    drained = max(ended, seen.last) - stamps[-1]
    return {
        "rate": rate,
        "seconds": seconds,
        "published_per_s": round(kept, 1),
        "publisher_behind_ms_p99": _milliseconds(behind, 0.99),
        "held": kept >= _PACE * rate and drained <= _HELD_SECONDS,
        "drained_after_last_ms": round(1000 * drained, 1),
        **_percentiles(load.samples, seen, stamps, rate),
        "poll_ms": round(1000 * (seen.last - began) / max(1, seen.polls), 2),
        "cpu_s": {name: round(after[name] - before[name], 2) for name in before}
        | {"watching": round(time.process_time() - own, 2), "watching_backend": looked},
        "published_in_s": round(published["ended"] - published["began"], 3),
        "listener_rss_mb": memory,
    }


def _watch(bench: Bench, load: Load, rate: int, began: float) -> _Seen:
    """Until every sample was seen."""
    keys = _keys(bench, load.samples)
    statement = sql.SQL(
        "SELECT k.number FROM unnest(%s::int[], %s::bigint[], %s::timestamptz[]) AS k(number, series_id, time)"
        " CROSS JOIN LATERAL (SELECT 1 FROM {}.telemetry_reading AS r WHERE r.series_id = k.series_id"
        " AND r.time = k.time AND r.text IS NULL LIMIT 1) AS found"
    ).format(sql.Identifier(load.samples[0].sender.schema))
    seen = _Seen({}, began, 0)
    waiting: dict[int, Sample] = {}
    coming = iter(load.samples)
    following = next(coming, None)
    progress = began
    bench.look.execute(_CHEAPLY)
    with bench.look.cursor(binary=True) as cursor:
        while waiting or following:
            turn = time.monotonic()
            while following and following.number / rate <= turn - began:
                waiting[following.number] = following
                following = next(coming, None)
            if waiting:
                asked = list(islice(waiting, _ASKED_AT_ONCE))
                times = [waiting[number].time for number in asked]
                cursor.execute(statement, [asked, [keys[number] for number in asked], times], prepare=True)
                rows = cursor.fetchall()
                now = time.monotonic()
                for (number,) in rows:
                    seen.at[number] = progress = now
                    del waiting[number]
            seen.polls += 1
            seen.last = time.monotonic()
            if waiting and seen.last - progress > _PATIENCE_SECONDS:
                raise AssertionError(f"{len(waiting)} messages were not seen, the first is {min(waiting)}")
            oldest = min(waiting, default=0)
            pause = max(_POLL_SECONDS, (seen.last - began - oldest / rate) * _COARSENESS) if waiting else _POLL_SECONDS
            time.sleep(max(0.0, turn + pause - time.monotonic()))
    return seen


def _keys(bench: Bench, samples: Sequence[Sample]) -> dict[int, int]:
    """The series of each sample's temperature."""
    query = sql.SQL("SELECT device_id, id FROM {}.telemetry_series WHERE metric = 'temperature'")
    rows = bench.look.execute(query.format(sql.Identifier(samples[0].sender.schema))).fetchall()
    series = {row[0]: row[1] for row in rows}
    return {sample.number: series[sample.sender.device_id] for sample in samples}


def _percentiles(samples: Sequence[Sample], seen: _Seen, stamps: "array[float]", rate: int) -> dict[str, Any]:
    counted = [sample for sample in samples if sample.number / rate >= _SKIPPED_SECONDS] or list(samples)
    latencies = sorted(seen.at[sample.number] - stamps[sample.number] for sample in counted)
    return {
        "samples": len(latencies),
        "p50_ms": round(1000 * statistics.median(latencies), 1),
        "p99_ms": _milliseconds(latencies, 0.99),
        "max_ms": _milliseconds(latencies, 1.0),
    }


def _milliseconds(ordered: Sequence[float], share: float) -> float:
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def _backend(bench: Bench) -> float:
    return cpu_seconds(bench.look.info.backend_pid)
