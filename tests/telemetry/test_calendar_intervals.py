"""The calendar's edges, at the places where clocks are changed."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.services.queries.calendar_intervals import (
    InvalidInterval,
    TooManyBuckets,
    interval_edges,
    parse_interval,
    suggested_interval,
)

INTERVALS = ("1m", "5m", "15m", "90m", "1h", "2h", "3h", "6h", "12h", "1d", "2d", "1w", "1mo", "3mo")
ZONES = (
    "UTC", "Asia/Seoul", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/St_Johns", "Asia/Kolkata",
    "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Cairo", "America/Havana", "Pacific/Apia", "Pacific/Chatham",
)  # fmt: skip


def shown(interval: str, zone: str, start: str, stop: str) -> list[str]:
    place = ZoneInfo(zone)
    begin, end = (datetime.fromisoformat(text).astimezone(UTC) for text in (start, stop))
    found = interval_edges(parse_interval(interval), place, begin, end, 99)
    return [f"{edge.astimezone(place):%m-%d %H:%M%z}" for edge in found]


@pytest.mark.parametrize(
    ("interval", "zone", "start", "stop", "expected"),
    [
        # 23 and 25 hours
        ("1d", "Europe/Berlin", "2026-03-28T23:00Z", "2026-03-29T22:00Z", ["03-29 00:00+0100", "03-30 00:00+0200"]),
        ("1d", "Europe/Berlin", "2026-10-24T22:00Z", "2026-10-25T23:00Z", ["10-25 00:00+0200", "10-26 00:00+0100"]),
        # the hour that is left out, and the one that there is twice
        (
            "1h", "Europe/Berlin", "2026-03-29T00:00Z", "2026-03-29T02:00Z",
            ["03-29 01:00+0100", "03-29 03:00+0200", "03-29 04:00+0200"],
        ),
        (
            "1h", "Europe/Berlin", "2026-10-25T00:00Z", "2026-10-25T02:00Z",
            ["10-25 02:00+0200", "10-25 02:00+0100", "10-25 03:00+0100"],
        ),
        (
            "6h", "Europe/Berlin", "2026-03-28T23:00Z", "2026-03-29T10:00Z",
            ["03-29 00:00+0100", "03-29 06:00+0200", "03-29 12:00+0200"],
        ),
        # half an hour is left out
        (
            "30m", "Australia/Lord_Howe", "2026-10-03T15:00Z", "2026-10-03T16:00Z",
            ["10-04 01:30+1030", "10-04 02:30+1100", "10-04 03:00+1100"],
        ),
        # midnight is left out
        ("1d", "Africa/Cairo", "2026-04-23T22:00Z", "2026-04-24T21:00Z", ["04-24 01:00+0300", "04-25 00:00+0300"]),
        # a whole day is left out
        (
            "1d", "Pacific/Apia", "2011-12-29T12:00Z", "2011-12-31T01:00Z",
            ["12-29 00:00-1000", "12-31 00:00+1400", "01-01 00:00+1400"],
        ),
        ("1h", "Asia/Kolkata", "2026-01-01T00:00Z", "2026-01-01T00:30Z", ["01-01 05:00+0530", "01-01 06:00+0530"]),
        ("1w", "Asia/Seoul", "2026-11-24T00:00Z", "2026-11-24T01:00Z", ["11-23 00:00+0900", "11-30 00:00+0900"]),
        ("3mo", "Asia/Seoul", "2026-11-24T00:00Z", "2026-11-24T01:00Z", ["10-01 00:00+0900", "01-01 00:00+0900"]),
    ],
)  # fmt: skip
def test_edges_are_where_the_clocks_of_the_place_say(
    interval: str, zone: str, start: str, stop: str, expected: list[str]
) -> None:
    assert shown(interval, zone, start, stop) == expected


@given(
    st.sampled_from(INTERVALS),
    st.sampled_from(ZONES),
    st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.floats(0.01, 60),
)
@settings(deadline=None, max_examples=200)
def test_edges_hold_the_range_without_gap(interval: str, zone: str, start: datetime, count: float) -> None:
    wanted, place = parse_interval(interval), ZoneInfo(zone)
    stop = start + count * wanted.shortest
    found = interval_edges(wanted, place, start, stop, 1000)
    assert found[0] <= start < found[1]
    assert found[-2] < stop <= found[-1]
    assert all(timedelta(0) < later - earlier for earlier, later in pairwise(found))
    step = wanted.number * {"m": 1, "h": 60}.get(wanted.unit, 24 * 60)
    for edge in found:
        local = edge.astimezone(place)
        before = (edge - timedelta(microseconds=1)).astimezone(place)
        changed = before.utcoffset() != local.utcoffset()
        assert changed or (local.hour * 60 + local.minute) % min(step, 24 * 60) == 0
        assert (local.second, local.microsecond) == (0, 0)


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "1s", "1.5h", "7m", "5h", "1441m", "53w", "367d", "5mo", "١h"])
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(InvalidInterval, match=r"use 1m|divide|at most"):
        parse_interval(text)


def test_no_more_than_wanted_and_what_would_be_fewer() -> None:
    start, place = datetime(2026, 1, 1, tzinfo=UTC), ZoneInfo("UTC")
    assert len(interval_edges(parse_interval("1h"), place, start, start + timedelta(hours=24), 24)) == 25
    with pytest.raises(TooManyBuckets):
        interval_edges(parse_interval("1h"), place, start, start + timedelta(hours=24, microseconds=1), 24)
    span = timedelta(days=365)
    assert suggested_interval(span, 1000) == "12h"
    assert len(interval_edges(parse_interval(suggested_interval(span, 1000)), place, start, start + span, 1000)) <= 1001
