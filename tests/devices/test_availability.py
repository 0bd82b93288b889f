"""Timelines and availability: by table, and by properties over any history of changes."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.services.presence.availability import (
    Availability,
    Segment,
    clip,
    downsample,
    exclude_windows,
    measure,
    seconds_by_status,
    timeline,
)

T0 = datetime(2026, 11, 22, tzinfo=UTC)
STATUSES = ("UNKNOWN", "ONLINE", "OFFLINE", "TIMEOUT")


@dataclass(frozen=True)
class RecordedRow:
    to_status: str
    at: datetime


def at(hour: float) -> datetime:
    return T0 + timedelta(hours=hour)


def status_rows(*rows: tuple[float, str]) -> list[RecordedRow]:
    return [RecordedRow(status, at(hour)) for hour, status in rows]


def spans(*parts: tuple[str, float, float]) -> list[Segment]:
    return [Segment(status, at(start), at(stop)) for status, start, stop in parts]


@pytest.mark.parametrize(
    ("rows", "before", "expected"),
    [
        ([], "UNKNOWN", [("UNKNOWN", 0, 24)]),
        ([], "ONLINE", [("ONLINE", 0, 24)]),
        ([(6, "ONLINE")], "UNKNOWN", [("UNKNOWN", 0, 6), ("ONLINE", 6, 24)]),
        ([(0, "ONLINE")], "UNKNOWN", [("ONLINE", 0, 24)]),
        ([(24, "OFFLINE")], "ONLINE", [("ONLINE", 0, 24)]),
        # the clock was set back: the later row counts from the one before it
        ([(6, "OFFLINE"), (5, "ONLINE")], "ONLINE", [("ONLINE", 0, 24)]),
        ([(6, "OFFLINE"), (5, "ONLINE"), (7, "TIMEOUT")], "ONLINE", [("ONLINE", 0, 7), ("TIMEOUT", 7, 24)]),
        # rows outside of the range say what it begins with and nothing else
        ([(-5, "OFFLINE"), (30, "ONLINE")], "ONLINE", [("OFFLINE", 0, 24)]),
    ],
)
def test_a_timeline(rows: list[tuple[float, str]], before: str, expected: list[tuple[str, float, float]]) -> None:
    assert timeline(status_rows(*rows), before, at(0), at(24)) == spans(*expected)


def test_a_timeline_of_no_time_is_empty() -> None:
    assert timeline(status_rows((1, "ONLINE")), "UNKNOWN", at(5), at(5)) == []
    assert timeline([], "UNKNOWN", at(5), at(4)) == []


H = 3600.0


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([], Availability(None, 0, 0, None, 0)),
        ([("UNKNOWN", 0, 24)], Availability(None, 0, 0, None, 0)),
        ([("ONLINE", 0, 24)], Availability(100, 0, 0, None, 24 * H)),
        ([("OFFLINE", 0, 24)], Availability(0, 1, 24 * H, 0, 24 * H)),
        ([("ONLINE", 0, 18), ("TIMEOUT", 18, 24)], Availability(75, 1, 6 * H, 18 * H, 24 * H)),
        # TIMEOUT and then OFFLINE: one outage
        (
            [("ONLINE", 0, 12), ("TIMEOUT", 12, 13), ("OFFLINE", 13, 15), ("ONLINE", 15, 24)],
            Availability(87.5, 1, 3 * H, 21 * H, 24 * H),
        ),
        # what is not known counts neither way, and ends no outage
        (
            [("OFFLINE", 0, 2), ("UNKNOWN", 2, 20), ("OFFLINE", 20, 21), ("ONLINE", 21, 24)],
            Availability(50, 1, 3 * H, 3 * H, 6 * H),
        ),
        (
            [("OFFLINE", 0, 1), ("ONLINE", 1, 11), ("TIMEOUT", 11, 14), ("ONLINE", 14, 24)],
            Availability(100 * (20 / 24), 2, 3 * H, 10 * H, 24 * H),
        ),
    ],
)
def test_availability(segments: list[tuple[str, float, float]], expected: Availability) -> None:
    assert measure(spans(*segments)) == expected


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([], Availability(75, 1, 6 * H, 18 * H, 24 * H)),
        ([(18, 24)], Availability(100, 0, 0, None, 18 * H)),
        ([(20, 22)], Availability(100 * (18 / 22), 1, 4 * H, 18 * H, 22 * H)),
        ([(19, 22), (20, 23)], Availability(90, 1, 2 * H, 18 * H, 20 * H)),
        ([(0, 24)], Availability(None, 0, 0, None, 0)),
        ([(30, 40)], Availability(75, 1, 6 * H, 18 * H, 24 * H)),
    ],
)
def test_maintenance_is_taken_out(windows: list[tuple[float, float]], expected: Availability) -> None:
    segments = spans(("ONLINE", 0, 18), ("OFFLINE", 18, 24))
    assert measure(exclude_windows(segments, [(at(start), at(stop)) for start, stop in windows])) == expected


_MOMENTS = st.integers(-(10**9), 10**12).map(lambda number: T0 + timedelta(microseconds=number))
_LEDGERS = st.lists(st.builds(RecordedRow, st.sampled_from(STATUSES), _MOMENTS), max_size=30)
_WINDOWS = st.lists(st.tuples(_MOMENTS, _MOMENTS).filter(lambda pair: pair[0] < pair[1]), max_size=5)


@settings(max_examples=150, deadline=None)
@given(_LEDGERS, st.sampled_from(STATUSES), _MOMENTS, _MOMENTS, _WINDOWS, st.integers(1, 20))
def test_the_time_adds_up(
    rows: list[RecordedRow],
    before: str,
    start: datetime,
    stop: datetime,
    windows: list[tuple[datetime, datetime]],
    slots: int,
) -> None:
    """Of any history, clocks set back and all: no gap, no overlap, and every second in one place."""
    segments = timeline(rows, before, start, stop)
    assert sum(one.seconds for one in segments) == pytest.approx(max(0.0, (stop - start).total_seconds()))
    if segments:
        assert (segments[0].start, segments[-1].stop) == (start, stop)
    for one, following in pairwise(segments):
        assert one.stop == following.start
        assert one.status != following.status
    assert all(one.seconds > 0 for one in segments)

    counted = exclude_windows(segments, windows)
    in_windows = [part for lower, upper in _disjoint(windows) for part in clip(segments, lower, upper)]
    assert sum(one.seconds for one in [*counted, *in_windows]) == pytest.approx(sum(one.seconds for one in segments))
    figures, seconds = measure(counted), seconds_by_status(counted)
    assert figures.known_seconds == pytest.approx(sum(seconds.values()) - seconds.get("UNKNOWN", 0.0), abs=1e-6)
    assert figures.longest_outage_seconds <= figures.known_seconds
    assert (figures.outages == 0) == (seconds.get("OFFLINE", 0.0) + seconds.get("TIMEOUT", 0.0) == 0)
    if figures.percent is None:
        assert figures.known_seconds == 0
    else:
        assert 0 <= figures.percent <= 100
        assert (figures.percent == 100) == (figures.outages == 0)
        assert figures.percent * figures.known_seconds == pytest.approx(100 * seconds.get("ONLINE", 0.0))
    if figures.mean_time_between_failures_seconds is not None:
        up = figures.mean_time_between_failures_seconds * figures.outages
        assert up == pytest.approx(seconds.get("ONLINE", 0.0))

    thinned = downsample(segments, slots)
    assert len(thinned) <= max(slots, 0)
    assert sum(one.seconds for one in thinned) == pytest.approx(sum(one.seconds for one in segments))
    assert {one.status for one in thinned} <= {one.status for one in segments}
    if "OFFLINE" in seconds_by_status(segments):
        assert "OFFLINE" in seconds_by_status(thinned), "the worst is never left out"


def _disjoint(windows: list[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    merged: list[tuple[datetime, datetime]] = []
    for lower, upper in sorted(windows):
        if merged and lower <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(upper, merged[-1][1])
        else:
            merged.append((lower, upper))
    return merged
