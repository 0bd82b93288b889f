"""The levels of a rule as the API has them, checked and converted to plain values."""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

from .rules import MAX_DELAY, MAX_LEVELS, SEVERITIES, Band, Level

THRESHOLD, OUTSIDE = "threshold", "outside"
ABOVE, BELOW = "above", "below"
_REQUIRED = ("severity", "raise", "clear")
_DELAYS = ("raise_after_seconds", "clear_after_seconds")


class InvalidLevels(ValueError):
    """The levels are not valid: `code` and `parameters` name the cause, `index` the level."""

    def __init__(self, code: str, index: int | None = None, **parameters: Any) -> None:
        super().__init__(code)
        self.code = code
        self.index = index
        self.parameters = parameters


def parse_levels(kind: str, levels: Any) -> tuple[Level, ...]:
    """Return the levels, from the least severe. Raises InvalidLevels."""
    check_count(levels)
    parsed = [_parse_level(kind, index, one) for index, one in enumerate(levels)]
    severities = [one.severity for one in parsed]
    for index, severity in enumerate(severities):
        if severity in severities[:index]:
            raise InvalidLevels("severity_twice", index, severity=severity)
    ordered = sorted(parsed, key=lambda one: SEVERITIES.index(one.severity))
    for milder, one in pairwise(ordered):
        if _sides(milder) != _sides(one):
            raise InvalidLevels("directions", parsed.index(one))
        if not one.raise_band.contains(milder.raise_band):
            raise InvalidLevels("order", parsed.index(one), severity=one.severity, milder=milder.severity)
    return tuple(ordered)


def check_count(levels: Any) -> None:
    """Raise InvalidLevels where this is not a list of one to five levels."""
    if not isinstance(levels, Sequence) or isinstance(levels, str) or not 1 <= len(levels) <= MAX_LEVELS:
        raise InvalidLevels("count", most=MAX_LEVELS)


def parse_severity(index: int, level: Mapping[str, Any]) -> str:
    """Return the severity of a level. Raises InvalidLevels."""
    if "severity" not in level:
        raise InvalidLevels("required", index, name="severity")
    if level["severity"] not in SEVERITIES:
        raise InvalidLevels("severity", index, value=level["severity"], known=", ".join(SEVERITIES))
    return str(level["severity"])


def _sides(level: Level) -> tuple[bool, bool]:
    return level.raise_band.low is None, level.raise_band.high is None


def _parse_level(kind: str, index: int, level: Any) -> Level:
    if not isinstance(level, Mapping):
        raise InvalidLevels("object", index)
    known = {*_REQUIRED, *_DELAYS} | ({"direction"} if kind == THRESHOLD else set())
    for name in level:
        if name not in known:
            raise InvalidLevels("unknown", index, name=name, known=", ".join(sorted(known)))
    for name in _REQUIRED:
        if name not in level:
            raise InvalidLevels("required", index, name=name)
    severity = parse_severity(index, level)
    delays = (parse_delay(index, name, level.get(name, 0)) for name in _DELAYS)
    if kind == OUTSIDE:
        raise_band, clear_band = (_band(index, name, level[name]) for name in ("raise", "clear"))
    else:
        raise_band, clear_band = _limits(index, level)
    if not raise_band.contains(clear_band):
        raise InvalidLevels("clear", index, clear=level["clear"], limit=level["raise"])
    return Level(severity, raise_band, clear_band, *delays)


def _limits(index: int, level: Mapping[str, Any]) -> tuple[Band, Band]:
    limits = parse_number(index, "raise", level["raise"]), parse_number(index, "clear", level["clear"])
    direction = level.get("direction", ABOVE)
    if direction not in (ABOVE, BELOW):
        raise InvalidLevels("direction", index, value=direction)
    first, second = (Band(high=one) if direction == ABOVE else Band(low=one) for one in limits)
    return first, second


def _band(index: int, name: str, value: Any) -> Band:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise InvalidLevels("band", index, name=name)
    low, high = (parse_number(index, name, one) for one in value)
    if low >= high:
        raise InvalidLevels("band_order", index, name=name)
    return Band(low, high)


def parse_number(index: int, name: str, value: Any) -> float:
    """Return a number of a level. Raises InvalidLevels."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidLevels("number", index, name=name, value=value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidLevels("range", index, name=name, value=value)
    if int(number) != int(value):
        raise InvalidLevels("exact", index, name=name, value=value)
    return number


def parse_delay(index: int, name: str, value: Any, least: int = 0) -> timedelta:
    """Return the delay of a level. Raises InvalidLevels."""
    most = int(MAX_DELAY.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidLevels("delay", index, name=name, value=value, least=least, most=most)
    return timedelta(seconds=value)
