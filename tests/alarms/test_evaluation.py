"""The rules of alarms as a table: readings at times, and the changes of episodes that they make."""

from datetime import timedelta

import pytest

from alarms.domain.evaluation import EndByUser, Event, Sample, evaluate, initial_state
from alarms.domain.rules import Band, Level, RuleHistory, RuleVersion
from tests.alarms.histories import at, level

GAP = timedelta(seconds=120)
WARNING = level("warning", 30, 1, 0, 0)
CRITICAL = level("critical", 40, 5, 0, 0)
MINUTE = 60.0


def changes(levels: tuple[Level, ...], *values: tuple[float, float], end_at: float | None = None) -> list[str]:
    """Return the changes as "minute: state severity", for values at minutes."""
    history = RuleHistory([RuleVersion(1, at(0), levels)])
    events: list[Event] = [Sample(at(MINUTE * minute), value) for minute, value in values]
    events += [] if end_at is None else [EndByUser(at(MINUTE * end_at))]
    ordered = sorted(events, key=lambda one: one.position)
    found = evaluate(history, initial_state(history), ordered, max_gap=GAP).changes
    return [
        f"{(one.position.at - at(0)).total_seconds() / MINUTE:g}: {one.to_state} {one.severity}".strip()
        for one in found
    ]


def each_minute(begin: int, end: int, value: float) -> list[tuple[float, float]]:
    return [(minute, value) for minute in range(begin, end)]


def test_a_value_at_the_limit_raises_nothing() -> None:
    assert changes((WARNING,), (1, 30), (2, 29.5)) == []


def test_hysteresis_keeps_an_episode_until_the_value_is_clear() -> None:
    assert changes((WARNING,), (1, 31), (2, 29.5), (3, 31), (4, 29)) == ["1: ACTIVE warning", "4: ENDED"]


def test_the_severity_rises_and_falls_within_an_episode() -> None:
    found = changes((WARNING, CRITICAL), (1, 31), (2, 41), (3, 36), (4, 35), (5, 29))
    assert found == ["1: ACTIVE warning", "2: ACTIVE critical", "4: ACTIVE warning", "5: ENDED"]


def test_a_delay_must_be_filled_with_readings() -> None:
    delayed = level("warning", 30, 1, 90 * MINUTE, 0)
    assert changes((delayed,), *each_minute(0, 91, 31)) == ["90: ACTIVE warning"]
    # The data stops at minute 20 and resumes at minute 100: the gap counts nothing, and the delay resumes.
    cut = [*each_minute(0, 21, 31), *each_minute(100, 170, 31)]
    assert changes((delayed,), *cut) == []
    assert changes((delayed,), *cut, (170, 31)) == ["170: ACTIVE warning"]
    assert changes((delayed,), *each_minute(0, 21, 31), (22, 29), *each_minute(23, 113, 31)) == []


def test_a_gap_ends_no_episode() -> None:
    slow = level("warning", 30, 1, 0, 10 * MINUTE)
    found = changes((slow,), (0, 31), (1, 20), (500, 20), *each_minute(501, 511, 20))
    assert found == ["0: ACTIVE warning", "1: RECOVERING warning", "510: ENDED"]


def test_a_value_that_rises_again_restarts_the_recovery() -> None:
    slow = level("warning", 30, 1, 0, 2 * MINUTE)
    found = changes((slow,), (0, 31), (1, 20), (2, 31), (3, 20), (4, 20), (5, 20))
    assert found == [
        "0: ACTIVE warning",
        "1: RECOVERING warning",
        "2: ACTIVE warning",
        "3: RECOVERING warning",
        "5: ENDED",
    ]


def test_an_end_by_hand_is_final_only_if_the_condition_does_not_hold() -> None:
    assert changes((WARNING,), (1, 31), end_at=2) == ["1: ACTIVE warning", "2: ENDED", "2: ACTIVE warning"]
    assert changes((WARNING,), (1, 31), (2, 29.5), end_at=3) == ["1: ACTIVE warning", "3: ENDED"]
    assert changes((WARNING,), (1, 20), end_at=3) == []


@pytest.mark.parametrize(("value", "raised"), [(9.0, True), (10.0, False), (20.0, False), (30.0, False), (31.0, True)])
def test_a_band_has_two_limits(value: float, raised: bool) -> None:
    band = Level("warning", Band(10, 30), Band(12, 28))
    assert bool(changes((band,), (1, value))) is raised
    assert band.clears(value) is (value == 20.0)


@pytest.mark.parametrize(
    ("outer", "inner", "contains"),
    [
        (Band(high=30), Band(high=29), True),
        (Band(high=30), Band(high=30), True),
        (Band(high=30), Band(high=31), False),
        (Band(low=5), Band(low=4), False),
        (Band(10, 30), Band(12, 31), False),
        (Band(high=30), Band(), False),
    ],
)
def test_a_band_contains_one_with_tighter_limits(outer: Band, inner: Band, contains: bool) -> None:
    assert outer.contains(inner) is contains
