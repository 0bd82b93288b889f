"""The preview of a rule: the alarms that it would have raised in a range of the past, without being saved.

Hours that cannot raise anything are skipped: their minimum and maximum in the rollups lie within all limits.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from alarms.domain.evaluation import (
    EpisodeChange,
    EpisodeState,
    EventPosition,
    EventRank,
    Sample,
    evaluate,
    normal_state,
)
from alarms.domain.rules import Level, RuleHistory, RuleVersion
from telemetry.models import Series
from telemetry.services.queries.readings import ReadingPosition, readings

MAX_SERIES = 100
MAX_DAYS = 366
MAX_EPISODES = 1000
SECONDS = 20.0
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_PAGE = 10_000
_CANDIDATES = """
WITH hours AS (
    SELECT h.hour, bool_or(h.min < %(low)s OR h.max > %(high)s) AS crosses
    FROM telemetry_readinghour h
    WHERE h.series_id = ANY(%(series)s) AND h.hour >= %(start)s AND h.hour < %(rolled)s GROUP BY h.hour
)
SELECT hour FROM hours WHERE crosses
UNION
SELECT hour FROM telemetry_latehour
WHERE device_id = %(device)s AND hour >= %(start)s AND hour < %(stop)s
ORDER BY hour
"""
_ROLLED = "SELECT rolled_until FROM telemetry_rollupstate"


@dataclass(frozen=True, slots=True)
class PreviewSeries:
    """A series of a rule: the names, the ids of its Series, and the allowed gap."""

    device: int
    uuid: Any
    component: str
    ids: tuple[int, ...]
    max_gap: timedelta


@dataclass(slots=True)
class PreviewEpisode:
    """An episode that the rule would have raised; `ended_at` None: it is open at the end of the range."""

    series: PreviewSeries
    severity: str
    started_at: datetime
    value: float | None
    ended_at: datetime | None = None


@dataclass(slots=True)
class Preview:
    """The episodes, at most `MAX_EPISODES`, and their number. `complete` is False where time ran out."""

    series: int
    episodes: list[PreviewEpisode] = field(default_factory=list)
    count: int = 0
    readings: int = 0
    complete: bool = True


def preview(
    levels: Sequence[Level], series: Sequence[PreviewSeries], start: datetime, stop: datetime, severities: Sequence[str]
) -> Preview:
    """Return the episodes of the levels in start ≤ time < stop. The range begins without any."""
    result = Preview(len(series))
    history = RuleHistory([RuleVersion(1, start, tuple(levels))])
    deadline = time.monotonic() + SECONDS
    for one in series:
        found: list[PreviewEpisode] = []
        for change in _changes(history, one, start, stop, result, deadline):
            _apply(found, one, change, severities)
        result.count += len(found)
        result.episodes += found[: MAX_EPISODES - len(result.episodes)]
    result.episodes.sort(key=lambda one: (one.started_at, str(one.series.uuid), one.series.component))
    return result


def _apply(
    found: list[PreviewEpisode], series: PreviewSeries, change: EpisodeChange, severities: Sequence[str]
) -> None:
    value = change.sample.value if change.sample else None
    if change.from_state in (EpisodeState.NORMAL, EpisodeState.PENDING):
        found.append(PreviewEpisode(series, change.severity, change.position.at, value))
    elif change.to_state is EpisodeState.ENDED:
        found[-1].ended_at = change.position.at
    elif severities.index(change.severity) > severities.index(found[-1].severity):
        found[-1].severity, found[-1].value = change.severity, value


def _changes(
    history: RuleHistory, series: PreviewSeries, start: datetime, stop: datetime, result: Preview, deadline: float
) -> Iterator[EpisodeChange]:
    state = normal_state(history.versions[0], EventPosition(start, EventRank.VERSION))
    at = start
    for begin, end in _candidate_ranges(history.versions[0].levels, series, start, stop):
        at, step = max(at, begin), _HOUR
        while at < stop and (at < end or state.state is not EpisodeState.NORMAL):
            if time.monotonic() > deadline:
                result.complete = False
                return
            # Behind the range an episode is open: it is followed in growing steps.
            until = min(stop, at + _DAY, end if at < end else at + step)
            step = min(_DAY, 2 * step) if at >= end else step
            samples = list(_samples(series, at, until))
            result.readings += len(samples)
            evaluation = evaluate(history, state, samples, max_gap=series.max_gap)
            yield from evaluation.changes
            state, at = evaluation.state, until


def _candidate_ranges(
    levels: Sequence[Level], series: PreviewSeries, start: datetime, stop: datetime
) -> list[tuple[datetime, datetime]]:
    """Return the ranges that can hold a value beyond a limit, merged, in their order."""
    first_hour = start.replace(minute=0, second=0, microsecond=0)
    with connection.cursor() as cursor:
        cursor.execute(_ROLLED)
        rolled = min(stop, cursor.fetchone()[0] or first_hour)
        lows = [level.raise_band.low for level in levels if level.raise_band.low is not None]
        highs = [level.raise_band.high for level in levels if level.raise_band.high is not None]
        parameters = {
            "low": max(lows, default=float("-inf")),
            "high": min(highs, default=float("inf")),
            "series": list(series.ids),
            "device": series.device,
            "start": first_hour,
            "stop": stop,
            "rolled": rolled,
        }
        cursor.execute(_CANDIDATES, parameters)
        hours = [row[0] for row in cursor.fetchall()]
    ranges: list[tuple[datetime, datetime]] = []
    for begin, end in [*((hour, hour + _HOUR) for hour in hours), (max(rolled, first_hour), stop)]:
        if ranges and begin <= ranges[-1][1]:
            ranges[-1] = ranges[-1][0], max(end, ranges[-1][1])
        elif begin < end:
            ranges.append((begin, end))
    return ranges


def _samples(series: PreviewSeries, start: datetime, stop: datetime) -> Iterator[Sample]:
    rows_of = [Series(pk=pk, device_id=series.device, value_type="number") for pk in series.ids]
    position: ReadingPosition | None = None
    last: Sample | None = None
    while True:
        rows = readings(rows_of, start=start, stop=stop, after=position, limit=_PAGE)
        for row in sorted(rows, key=lambda one: (one.time, float(one.value))):
            sample = Sample(row.time, float(row.value))
            if sample != last:
                yield sample
            last = sample
        if len(rows) < _PAGE:
            return
        position = ReadingPosition(rows[-1].time, rows[-1].series, rows[-1].key)
