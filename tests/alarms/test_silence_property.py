"""Random silences against a simple model that looks at each second, and the deliberate defects that it must find."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest

from alarms.domain import silence
from alarms.domain.evaluation import EndByUser, EventPosition, EventRank
from alarms.domain.silence import (
    Outage,
    SilenceArrivals,
    SilenceLevel,
    SilenceRule,
    SilenceState,
    SilenceVersion,
    advance_by_readings,
    advance_by_time,
)

from .histories import MemoryRecord, at
from .test_evaluation_property import chain_error

HISTORIES = 600
END = 700
INTERVAL = at(10) - at(0)
LONG = at(10**6) - at(0)


@dataclass
class SilenceMemory(MemoryRecord):
    """The record of a component: the times of all stored readings, and the ends by hand."""

    times: set[datetime] = field(default_factory=set)
    ended: list[EndByUser] = field(default_factory=list)

    def reading_before(self, at: datetime) -> datetime | None:
        return max((one for one in self.times if one < at), default=None)

    def reading_times(self, start: datetime, stop: datetime) -> Sequence[datetime]:
        return sorted(one for one in self.times if start <= one <= stop)

    def reading_after(self, at: datetime) -> datetime | None:
        return min((one for one in self.times if one > at), default=None)

    def ends(self, after: datetime, until: datetime) -> Sequence[EndByUser]:
        return [one for one in self.ended if after < one.at <= until]


@dataclass
class Script:
    """Steps in the order of the clock: ("read", times), ("time", now), ("edit", version) or ("end", time)."""

    versions: list[SilenceVersion]
    outages: list[Outage]
    steps: list[tuple[str, Any]]


def random_levels(source: random.Random) -> tuple[SilenceLevel, ...]:
    delays = sorted(source.sample(range(20, 160), 2))
    levels = [SilenceLevel("warning", at(delays[0]) - at(0)), SilenceLevel("critical", None, delays[1] / 10)]
    return tuple(source.choice([levels, levels[:1], []]))


def random_script(source: random.Random) -> Script:
    first = SilenceVersion(1, at(0), random_levels(source) or (SilenceLevel("warning", at(40) - at(0)),))
    times, now = [at(source.randrange(3))], 0
    while now < END - 60:
        now += source.choice([5, 10, 30, source.randrange(20, 300)])
        times.append(at(min(now, END - 1)))
    outages, begin = [], 0
    while source.random() < 0.5 and begin < END - 200:
        begin += source.randrange(1, 200)
        outages.append(Outage(at(begin), at(begin + source.randrange(1, 90))))
        begin += 100
    # Readings arrive at their times, or later with others.
    arrivals: dict[int, list[datetime]] = {}
    for one in times:
        second = int((one - at(0)).total_seconds())
        for _ in range(source.choice([1, 1, 1, 2])):
            delay = source.choice([0, 0, 0, source.randrange(300)])
            arrivals.setdefault(min(END, second + delay), []).append(one)
    steps: list[tuple[str, Any]] = []
    versions = [first]
    for second in range(END + 1):
        if second in arrivals:
            source.shuffle(arrivals[second])
            steps.append(("read", (at(second), arrivals[second])))
        if second and source.random() < 0.004:
            versions.append(SilenceVersion(len(versions) + 1, at(second), random_levels(source)))
            steps.append(("edit", len(versions)))
        if source.random() < 0.05:
            steps.append((source.choice(["time", "time", "killed"]), at(second)))
        if source.random() < 0.01:
            steps.append(("end", EndByUser(at(second), source.random() < 0.2)))
    return Script(versions, outages, [*steps, ("time", at(END))])


def play(script: Script) -> SilenceMemory:
    """Evaluate the steps of a script as the process does; return the record."""
    record, stored, versions = SilenceMemory(), None, 1
    for kind, value in script.steps:
        rule = SilenceRule(tuple(script.versions[:versions]), INTERVAL, script.outages)
        state = SilenceState.from_stored(stored) if stored else None
        if kind == "edit":
            versions = value
        elif kind == "read":
            now, times = value
            record.times.update(times)
            state = state or SilenceState(min(times), now)
            after, result = advance_by_readings(rule, state, SilenceArrivals(times, now), record)
            if result is not None:
                record.write(result)
            stored = after.stored()
        elif state is not None and kind in ("time", "killed"):
            is_last = value == at(END)
            longest = LONG if is_last else value - state.arrived
            after, result = advance_by_time(rule, state, value, record, longest=longest)
            if kind == "time":
                record.write(result)
                stored = after.stored()
        elif state is not None and kind == "end" and state.is_open and value.at > state.last:
            record.ended.append(value)
            after, result = advance_by_time(rule, state, value.at, record, longest=LONG)
            record.write(result)
            stored = after.stored()
    return record


def expected(script: Script, record: SilenceMemory) -> list[tuple[Any, ...]]:
    """Return (position, from severity, severity, cause) of each change, from the severity at each second."""
    changes: list[tuple[Any, ...]] = []
    severity, begin, is_blocked = "", None, False
    edits, ends = {one.effective_at for one in script.versions}, {one.at: one for one in record.ended}
    for second in range(END + 1):
        now = at(second)
        if now in record.times:
            if severity:
                changes.append((EventPosition(now, EventRank.SAMPLE), severity, "", "reading"))
            severity, begin, is_blocked = "", now, False
        elif begin is not None:
            is_blocked = is_blocked and now not in edits
            after = "" if is_blocked else _severity(script, begin, now)
            if after != severity:
                cause = "rule_changed" if now in edits and severity else "silence"
                changes.append((EventPosition(now, EventRank.VERSION), severity, after, cause))
            severity = after
            if now in ends:
                severity, is_blocked = _ended(changes, ends[now], severity, is_blocked)
    return changes


def _ended(changes: list[tuple[Any, ...]], end: EndByUser, severity: str, is_blocked: bool) -> tuple[str, bool]:
    if severity:
        cause = "rule_changed" if end.is_final else "ended_by_user"
        changes.append((EventPosition(end.at, EventRank.END), severity, "", cause))
        if not end.is_final:
            changes.append((EventPosition(end.at, EventRank.STILL_RAISED), "", severity, "still_raised"))
    return ("", True) if end.is_final else (severity, is_blocked)


def _severity(script: Script, begin: datetime, now: datetime) -> str:
    version = [one for one in script.versions if one.effective_at <= now][-1]
    raised = ""
    for level in version.levels:
        delay = level.delay(INTERVAL)
        moment = begin + delay
        while moment <= now:
            if not any(one.end > moment - delay and one.begin < moment for one in script.outages):
                raised = level.severity
                break
            moment += at(1) - at(0)
    return raised


def mismatch(script: Script) -> str:
    """Return how the record differs from the model; empty: it does not."""
    record = play(script)
    rows = sorted(record.changes.values(), key=lambda one: one.change.position)
    found = [
        (row.change.position, row.change.from_severity, row.change.severity, str(row.change.cause)) for row in rows
    ]
    wanted = expected(script, record)
    if found != wanted:
        return f"{found} instead of {wanted}"
    return chain_error(record)


@pytest.mark.parametrize("seed", range(3))
def test_the_record_is_that_of_the_model_whatever_the_order_of_arrival(seed: int) -> None:
    changes = 0
    for number in range(HISTORIES // 3):
        script = random_script(random.Random(f"{seed}/{number}"))
        assert mismatch(script) == "", f"history {seed}/{number}"
        changes += len(expected(script, play(script)))
    assert changes > HISTORIES // 3


def test_data_that_arrives_in_time_is_never_late_nor_retracted() -> None:
    for number in range(200):
        script = random_script(random.Random(number))
        times = sorted({one for kind, value in script.steps if kind == "read" for one in value[1]})
        steps = [("read", (one, [one])) for one in times]
        record = play(Script(script.versions[:1], script.outages, steps))
        assert not any(record.late.values())
        assert not any(one.retracted or one.late for one in record.episodes.values())


# --- deliberate defects -----------------------------------------------------------------------------------------


def _late_data_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    right = silence.advance_by_readings

    def wrong(rule: Any, state: Any, arrivals: Any, record: Any) -> Any:
        return right(rule, state, replace(arrivals, times=[one for one in arrivals.times if one > state.last]), record)

    monkeypatch.setattr(f"{__name__}.advance_by_readings", wrong)


def _outages_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SilenceRule, "raised_at", lambda _self, begin, delay: begin + delay)


def _an_outage_only_postpones(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: SilenceRule, begin: datetime, delay: Any) -> datetime:
        return max([begin + delay, *(one.end for one in self.outages if one.begin < begin + delay and one.end > begin)])

    monkeypatch.setattr(SilenceRule, "raised_at", wrong)


def _restart_raises_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SilenceMemory, "changes_after", lambda *_: ())


def _superseded_changes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    right = silence.revise
    monkeypatch.setattr(silence, "revise", lambda *args: replace(right(*args), superseded=()))


def _ends_by_hand_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SilenceMemory, "ends", lambda *_: ())


def _a_late_reading_only_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SilenceMemory, "reading_after", lambda _self, after: after)


def _the_version_of_the_begin_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SilenceRule.severity

    def wrong(self: SilenceRule, begin: datetime, now: datetime, longest: Any) -> str:
        old = self.version_at(begin)
        return right(replace(self, versions=(old,) if old else self.versions), begin, now, longest)

    monkeypatch.setattr(SilenceRule, "severity", wrong)


def _intervals_are_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(rule: Any, *args: Any, **options: Any) -> Any:
        return right(replace(rule, interval=at(1) - at(0)), *args, **options)

    right = advance_by_time
    monkeypatch.setattr(f"{__name__}.advance_by_time", wrong)


DEFECTS = (
    _late_data_is_ignored,
    _outages_count,
    _an_outage_only_postpones,
    _restart_raises_again,
    _superseded_changes_stay,
    _ends_by_hand_are_forgotten,
    _a_late_reading_only_ends,
    _the_version_of_the_begin_stays,
    _intervals_are_seconds,
)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda one: one.__name__.strip("_"))
def test_a_deliberate_defect_is_found(
    defect: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    for number in range(300):
        try:
            if mismatch(random_script(random.Random(f"0/{number}"))):
                return
        except (AttributeError, IndexError, KeyError, StopIteration):
            return
    pytest.fail("no history shows the defect")
