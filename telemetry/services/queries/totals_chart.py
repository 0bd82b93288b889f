"""The bar chart of the daily totals: the height is the number received, the segments are the results. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from telemetry.models import IngestTotals

HEIGHT = 160.0
# What there is so little of that it would vanish is drawn so high all the same.
_MIN_HEIGHT = 2.0
SEGMENTS = ("stored", "duplicates", "quarantined", "rate_limited")


@dataclass(frozen=True, slots=True)
class BarSegment:
    """A piece of a bar, from its top; `y` and `height` in pixels of HEIGHT."""

    name: str
    value: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class DayBar:
    """A day; `left` and `width` are per cent of the chart's width."""

    totals: IngestTotals
    left: float
    width: float
    parts: tuple[BarSegment, ...]


@dataclass(frozen=True, slots=True)
class TotalsChart:
    """Bars, oldest day first; `most` is what the highest stands for."""

    bars: tuple[DayBar, ...]
    most: int
    totals: IngestTotals


def build_totals_chart(rows: Iterable[IngestTotals], last: date, days: int) -> TotalsChart:
    """Return the chart of `days` days up to `last`; a day without a row is empty. `totals` is their sum."""
    by_day = {row.day: row for row in rows}
    wanted = [last - timedelta(days=days - 1 - number) for number in range(days)]
    shown = [by_day.get(day) or IngestTotals(day=day) for day in wanted]
    most = max(row.received for row in shown)
    width = 100 / days
    bars = tuple(
        DayBar(row, round(number * width, 3), round(0.8 * width, 3), _segments(row, most))
        for number, row in enumerate(shown)
    )
    summed = {name: sum(getattr(row, name) for row in shown) for name in ("received", *SEGMENTS)}
    return TotalsChart(bars, most, IngestTotals(day=last, **summed))


def _segments(row: IngestTotals, most: int) -> tuple[BarSegment, ...]:
    if not row.received:
        return ()
    values = [(name, getattr(row, name)) for name in SEGMENTS]
    heights = {name: max(_MIN_HEIGHT, HEIGHT * value / most) for name, value in values if value}
    # What was drawn too high is taken from the highest, so that the bar is as high as what was received.
    highest = max(heights, key=lambda name: heights[name])
    heights[highest] = max(_MIN_HEIGHT, heights[highest] - (sum(heights.values()) - HEIGHT * row.received / most))
    parts, y = [], HEIGHT
    for name, value in values:
        if value:
            y -= heights[name]
            parts.append(BarSegment(name, value, round(y, 2), round(heights[name], 2)))
    return tuple(parts)
