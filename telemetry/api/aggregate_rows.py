"""The results of aggregates of series, with intervals without readings filled."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from devices.models import Metric
from telemetry.models import Series
from telemetry.services.queries.aggregates import AggregateBucket
from telemetry.services.queries.interpolation import InterpolatedAggregate

from .parameters import AGGREGATES, INTERPOLATED
from .unit_conversion import UnitTarget

Text, Boolean, Number = Metric.ValueType.TEXT, Metric.ValueType.BOOLEAN, Metric.ValueType.NUMBER
_LEVELS = ("min", "max", "avg", "last")  # the members that are filled


class AggregateRows:
    """The results of an answer, by the parameters of its request."""

    def __init__(self, wanted: dict[str, Any], edges: Sequence[datetime.datetime]) -> None:
        self._names: Sequence[str] = wanted.get("aggregate") or AGGREGATES
        self._fill: str = wanted["fill"]
        self._max_gap: float = wanted.get("max_gap_seconds", float("inf"))
        self._times = [edge.timestamp() for edge in edges[:-1]]
        self._starts = [edge.astimezone(wanted["timezone"]).isoformat() for edge in edges[:-1]]

    def results_of(
        self,
        one: Series,
        buckets: Mapping[int, AggregateBucket],
        lines: Mapping[int, InterpolatedAggregate],
        target: UnitTarget,
    ) -> list[dict[str, Any]]:
        """Return the results of a series in order of time. `lines` are those of the intervals, if requested."""
        names = [name for name in self._names if one.value_type != Text or name in ("count", "last")]
        own = {number: _values(target.bucket(bucket), one.value_type) for number, bucket in buckets.items()}
        numbers: Iterable[int] = range(len(self._starts))
        if self._fill == "none":
            numbers = sorted({*own, *lines}) if lines else own
        filled = self._filled(own, one.value_type)
        nothing = {"count": 0, **dict.fromkeys((*_LEVELS, "sum"))}
        rows = []
        for number in numbers:
            values = own.get(number) or nothing | filled.get(number, {})
            if number in lines:
                values = values | line_values(target.line(lines[number]))
            rows.append({"starts_at": self._starts[number]} | {name: values.get(name) for name in names})
        return rows

    def _filled(self, own: Mapping[int, dict[str, Any]], kind: str) -> dict[int, dict[str, Any]]:
        """Return the values of intervals without readings by the parameter `fill`."""
        found: dict[int, dict[str, Any]] = {}
        known = sorted(own)
        if self._fill == "previous":
            for begin, end in zip(known, [*known[1:], len(self._starts)], strict=True):
                last = own[begin]["last"]
                values = dict.fromkeys(_LEVELS, last) | {"avg": None if kind == Text else float(last)}
                found |= dict.fromkeys(range(begin + 1, end), values)
        elif self._fill == "linear" and kind == Number:
            for begin, end in pairwise(known):
                if end - begin > 1 and self._times[end] - self._times[begin] <= self._max_gap:
                    found |= {number: self._between(own, begin, number, end) for number in range(begin + 1, end)}
        return found

    def _between(self, own: Mapping[int, dict[str, Any]], begin: int, number: int, end: int) -> dict[str, Any]:
        """Return the values on the lines from those of one interval to those of another, by their beginnings."""
        earlier, at, later = (self._times[place] for place in (begin, number, end))
        share = (at - earlier) / (later - earlier)
        pairs = {name: (own[begin][name], own[end][name]) for name in _LEVELS}
        return {
            name: None if before is None or after is None else before * (1 - share) + after * share
            for name, (before, after) in pairs.items()
        }


def requested_max_gap(wanted: dict[str, Any]) -> datetime.timedelta | None:
    """Return the longest time between two readings that have a line between them; None for any."""
    gap = wanted.get("max_gap_seconds")
    return None if gap is None else datetime.timedelta(seconds=gap)


def wants_interpolation(wanted: dict[str, Any]) -> bool:
    """Return whether a request needs the lines through the readings."""
    return any(name in INTERPOLATED for name in wanted.get("aggregate", ()))


def _values(bucket: AggregateBucket, kind: str) -> dict[str, Any]:
    return {
        "count": bucket.count,
        "min": _of_type(bucket.min, kind),
        "max": _of_type(bucket.max, kind),
        "avg": bucket.avg,
        "sum": bucket.sum,
        "last": _of_type(bucket.last, kind),
    }


def line_values(line: InterpolatedAggregate) -> dict[str, Any]:
    """Return the members of a result that have the values of a line."""
    return {"delta": line.delta, "rate": line.rate, "integral": line.integral}


def _of_type(value: float | str | None, kind: str) -> float | bool | str | None:
    return bool(value) if kind == Boolean and value is not None else value
