"""The required ratios, with the measured values."""

import statistics
from collections.abc import Callable
from typing import Any

Figures = dict[str, Any]
_GROWTH_MB_PER_MINUTE = 0.5
_FULL_FLEET = 100_000
_FULL_MINUTES = 10


def ratios(rounds: list[Figures]) -> dict[str, float | None]:
    """The medians of the rounds' ratios; None where a part was not measured. Only figures of one round are compared."""

    def ratio(over: str, under: str, figure: str) -> float | None:
        both = [row for row in rounds if row.get(over) and row.get(under)]
        values = [row[over][figure] / row[under][figure] for row in both if row[under][figure]]
        return round(statistics.median(values), 4) if values else None

    return {
        "one_to_old": ratio("one", "old", "messages_per_s"),
        "two_to_old": ratio("two", "old", "messages_per_s"),
        "one_to_old_lean": ratio("one", "old_lean", "messages_per_s"),
        "two_to_old_lean": ratio("two", "old_lean", "messages_per_s"),
        "one_to_node_red": ratio("one", "node_red", "messages_per_s"),
        "two_to_one": ratio("two", "one", "messages_per_s"),
        "headroom_beside_one": _headroom(rounds),
        "many_tenants_to_one": ratio("many_tenants", "one", "messages_per_s"),
        "tls_to_one": ratio("one_tls", "one", "messages_per_s"),
        "cpu_tls_to_one": ratio("one_tls", "one", "cpu_us_per_message"),
        "one_to_receiving_only": ratio("one", "receive", "messages_per_s"),
        "one_to_copy": ratio("one", "copy", "rows_per_s"),
        "cpu_one_to_old": ratio("one", "old", "cpu_us_per_message"),
        "cpu_one_to_old_lean": ratio("one", "old_lean", "cpu_us_per_message"),
        "cpu_one_to_node_red": ratio("one", "node_red", "cpu_us_per_message"),
    }


def _headroom(rounds: list[Figures]) -> float | None:
    """How many times as fast anything could be that costs what one listener costs: until no processor is idle."""
    shares = [row["one"]["machine_busy"] for row in rounds if row.get("one")]
    return round(1 / statistics.median(shares), 4) if shares else None


def evaluate(found: dict[str, float | None], latency: list[Figures], memory: Figures | None) -> list[Figures]:
    """Each goal with its value and whether it is met; None where it was not measured."""
    goals = [
        _at_least("one listener / old way, messages/s", found["one_to_old"], 40, aim=60),
        _at_least("one listener / Node-RED, messages/s", found["one_to_node_red"], 6),
        _at_least("two listeners / one, messages/s", found["two_to_one"], 1.2)
        | {"headroom": found["headroom_beside_one"]},
        _at_least("one batch over many tenants / of one tenant, messages/s", found["many_tenants_to_one"], 0.4),
        _at_least("one listener over TLS / without, messages/s", found["tls_to_one"], 0.8),
        _at_most("one listener / old way, processor time a message", found["cpu_one_to_old"], 1 / 40),
    ]
    slow, fast = _median_latency(latency, 1000), _median_latency(latency, 10_000)
    goals += [
        _at_most("ms until queryable at 1,000/s, p50", slow("p50_ms"), 12),
        _at_most("ms until queryable at 1,000/s, p99", slow("p99_ms"), 50),
        _at_least("10,000/s held (1: yes)", fast("held"), 1),
        _at_most("ms until queryable at 10,000/s, p99", fast("p99_ms"), 250),
    ]
    size = memory["largest_mb"] if memory and memory["devices"] >= _FULL_FLEET else None
    growth = memory["growth_mb_per_minute"] if memory and memory["minutes"] >= _FULL_MINUTES else None
    return [
        *goals,
        _at_most("listener's resident MB with 100,000 devices known", size, 200),
        _at_most("its growth in MB a minute over ten minutes", growth, _GROWTH_MB_PER_MINUTE),
    ]


def _median_latency(latency: list[Figures], rate: int) -> Callable[[str], float | None]:
    rows = [row for row in latency if row["rate"] == rate]
    return lambda figure: statistics.median(float(row[figure]) for row in rows) if rows else None


def _at_least(goal: str, value: float | None, least: float, *, aim: float | None = None) -> Figures:
    met = None if value is None else value >= least
    return {"goal": goal, "at_least": least} | ({"aim": aim} if aim else {}) | {"value": value, "met": met}


def _at_most(goal: str, value: float | None, most: float) -> Figures:
    return {"goal": goal, "at_most": most, "value": value, "met": None if value is None else value <= most}
