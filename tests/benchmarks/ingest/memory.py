"""A listener's resident memory with many devices known, and whether it grows under load.

Every device is heard once, then devices in turn are heard at a steady rate for some minutes. The growth is the slope of
a line through the memory, once a second, without the first fifth of the time, in which caches fill.
"""

import time
from typing import Any

from .bench import Bench
from .fleet import Fleet
from .processes import Program, resident_mb
from .tables import verify

_CHUNK = 5000
_STRETCH_SECONDS = 10.0
_SETTLING = 0.2
# Reading the keys of a hundred thousand devices for the first time takes minutes.
_PATIENCE_SECONDS = 300.0


def run(bench: Bench, fleet: Fleet, *, fleets: list[Fleet]) -> dict[str, Any]:
    """Memory in MB (10⁶ bytes), growth in MB a minute."""
    options = bench.options
    with bench.listeners(1) as programs:
        program = programs[0]
        empty = resident_mb(program.pid)
        began = time.monotonic()
        known = _make_known(bench, fleet, program)
        took = time.monotonic() - began
        curve = _soak(bench, fleet, program, 60 * options.minutes)
        last = bench.loads.make(fleet, min(_CHUNK, len(fleet.senders)), samples=options.samples)
        _send(bench, fleet, last, program)
        verify(bench.look, fleets, last)
        final = resident_mb(program.pid)
    return {
        "devices": len(fleet.senders),
        "at_start_mb": round(empty, 1),
        "all_known_mb": round(known, 1),
        "all_known_after_s": round(took, 1),
        "minutes": options.minutes,
        "messages_per_s": options.soak_rate,
        "largest_mb": round(max([known, final, *(size for _, size in curve)]), 1),
        "at_end_mb": round(final, 1),
        "growth_mb_per_minute": round(60 * slope(curve[int(_SETTLING * len(curve)) :]), 3),
        "curve_mb": [round(size, 1) for _, size in curve[:: max(1, len(curve) // 20)]],
    }


def _make_known(bench: Bench, fleet: Fleet, program: Program) -> float:
    """Each device is heard once; a part at a time, so that all of it is live."""
    everyone = fleet.senders
    for start in range(0, len(everyone), _CHUNK):
        part = Fleet(everyone[start : start + _CHUNK], fleet.schemas, fleet.sent)
        _send(bench, fleet, bench.loads.make(part, len(part.senders), samples=0), program)
        # += of a Counter works in place, so the whole fleet knows what was sent.
    return resident_mb(program.pid)


def _soak(bench: Bench, fleet: Fleet, program: Program, seconds: float) -> list[tuple[float, float]]:
    """(second, MB), about once a second; messages in stretches, of which one is made while another is sent."""
    curve: list[tuple[float, float]] = []
    began = time.monotonic()
    rate, turn = bench.options.soak_rate, 0
    per_stretch = int(min(_STRETCH_SECONDS, max(1.0, seconds)) * rate)
    while time.monotonic() - began < seconds:
        senders = [fleet.senders[(turn + n) % len(fleet.senders)] for n in range(min(per_stretch, len(fleet.senders)))]
        turn += per_stretch
        load = bench.loads.make(Fleet(senders, fleet.schemas, fleet.sent), per_stretch, samples=0)
        with bench.publisher(load, rate=rate) as publisher:
            publisher.write_line()
            until = time.monotonic() + per_stretch / rate
            while (now := time.monotonic()) < until:
                curve.append((now - began, resident_mb(program.pid)))
                time.sleep(min(1.0, max(0.0, until - now)))
            publisher.result()
    bench.wait_stored(dict(fleet.sent), [program], patience=_PATIENCE_SECONDS)
    return curve


def _send(bench: Bench, fleet: Fleet, load: Any, program: Program) -> None:
    with bench.publisher(load) as publisher:
        publisher.write_line()
        publisher.result()
    bench.wait_stored(dict(fleet.sent), [program], patience=_PATIENCE_SECONDS)


def slope(curve: list[tuple[float, float]]) -> float:
    """Of the line with the least squares, in units a second; 0 for fewer than two points."""
    count = len(curve)
    if count < 2:
        return 0.0
    middle_x = sum(x for x, _ in curve) / count
    middle_y = sum(y for _, y in curve) / count
    spread = sum((x - middle_x) ** 2 for x, _ in curve)
    return sum((x - middle_x) * (y - middle_y) for x, y in curve) / spread if spread else 0.0
