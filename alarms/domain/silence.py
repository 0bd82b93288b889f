"""The evaluation of silence: the alarms of a component that has sent no readings for too long, as pure functions.

A silence lasts from one reading to the next, by their own times. A level is raised when the silence has lasted for its
delay without an outage, and all levels are cleared by the next reading. An outage is a time in which the platform
could not receive the device's messages: the delay begins again with its end, and a raised level stays.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from .evaluation import (
    OPEN_STATES,
    ChangeCause,
    EndByUser,
    EpisodeChange,
    EpisodeState,
    Evaluation,
    EventPosition,
    EventRank,
    Sample,
    SeriesState,
)
from .revision import Advance, StoredChange, revise
from .rule_levels import InvalidLevels, check_count, parse_delay, parse_number, parse_severity
from .rules import SEVERITIES

NO_DATA = "no_data"
MAX_INTERVALS = 1000
# An expected interval can be years: times must stay within the calendar.
_LONGEST = timedelta(days=3650)
_MEMBERS = ("severity", "raise_after_seconds", "raise_after_intervals")


@dataclass(frozen=True, slots=True)
class SilenceLevel:
    """A severity that is raised after a delay: a time, or a number of expected intervals."""

    severity: str
    after: timedelta | None = None
    intervals: float = 0.0

    def delay(self, interval: timedelta) -> timedelta:
        """Return the delay for a component with this expected interval."""
        return min(self.intervals * interval, _LONGEST) if self.after is None else self.after


@dataclass(frozen=True, slots=True)
class SilenceVersion:
    """A version of a rule, from the least severe level; a disabled one has no levels."""

    number: int
    effective_at: datetime
    levels: tuple[SilenceLevel, ...] = ()


class Outage(NamedTuple):
    """A time in which messages of devices could not be received."""

    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class SilenceRule:
    """What a silence is evaluated by: the versions, the component's expected interval, and the outages, in order."""

    versions: tuple[SilenceVersion, ...]
    interval: timedelta
    outages: Sequence[Outage] = ()

    def version_at(self, at: datetime) -> SilenceVersion | None:
        """Return the version that is effective at a time, None before the first one."""
        return next((one for one in reversed(self.versions) if one.effective_at <= at), None)

    def delays(self) -> set[timedelta]:
        """Return the delays of all versions."""
        return {level.delay(self.interval) for version in self.versions for level in version.levels}

    def raised_at(self, begin: datetime, delay: timedelta) -> datetime:
        """Return when a silence since `begin` has lasted for the delay without an outage."""
        for outage in self.outages:
            if outage.end > begin and outage.begin < begin + delay:
                begin = outage.end
        return begin + delay

    def severity(self, begin: datetime, at: datetime, longest: timedelta) -> str:
        """Return the severity at a time of a silence since `begin`; levels with a delay over `longest` do not count."""
        version = self.version_at(at)
        raised = [
            level.severity
            for level in (version.levels if version else ())
            if (delay := level.delay(self.interval)) <= longest and self.raised_at(begin, delay) <= at
        ]
        return raised[-1] if raised else ""


def parse_silence_levels(levels: Any) -> tuple[SilenceLevel, ...]:
    """Return the levels, from the least severe. Raises InvalidLevels."""
    check_count(levels)
    parsed = [_parse_level(index, one) for index, one in enumerate(levels)]
    severities = [one.severity for one in parsed]
    for index, severity in enumerate(severities):
        if severity in severities[:index]:
            raise InvalidLevels("severity_twice", index, severity=severity)
    ordered = sorted(parsed, key=lambda one: SEVERITIES.index(one.severity))
    for milder, one in pairwise(ordered):
        if (milder.after is None) != (one.after is None):
            raise InvalidLevels("delay_members", parsed.index(one))
        if one.delay(timedelta(seconds=1)) <= milder.delay(timedelta(seconds=1)):
            raise InvalidLevels("delay_order", parsed.index(one), severity=one.severity, milder=milder.severity)
    return tuple(ordered)


def _parse_level(index: int, level: Any) -> SilenceLevel:
    if not isinstance(level, Mapping):
        raise InvalidLevels("object", index)
    for name in level:
        if name not in _MEMBERS:
            raise InvalidLevels("unknown", index, name=name, known=", ".join(_MEMBERS))
    severity = parse_severity(index, level)
    given = [name for name in _MEMBERS[1:] if name in level]
    if len(given) != 1:
        raise InvalidLevels("one_delay", index)
    if given == ["raise_after_seconds"]:
        return SilenceLevel(severity, parse_delay(index, given[0], level[given[0]], least=1))
    value = parse_number(index, given[0], level[given[0]])
    if not 1 <= value <= MAX_INTERVALS:
        raise InvalidLevels("intervals", index, value=value, most=MAX_INTERVALS)
    return SilenceLevel(severity, None, value)


@dataclass(frozen=True, slots=True)
class SilenceState:
    """The state of a component: the time of its newest reading, when data of it last arrived, and the open episode.

    `version` is the number of the rule's version by which the next look was determined.
    """

    last: datetime
    arrived: datetime
    is_open: bool = False
    version: int = 0

    def stored(self) -> dict[str, Any]:
        """Return the state for a JSON column."""
        return {
            "last": self.last.isoformat(),
            "arrived": self.arrived.isoformat(),
            "is_open": self.is_open,
            "version": self.version,
        }

    @classmethod
    def from_stored(cls, stored: dict[str, Any]) -> "SilenceState":
        """Return the state that `stored` returned."""
        return cls(
            datetime.fromisoformat(stored["last"]),
            datetime.fromisoformat(stored["arrived"]),
            stored["is_open"],
            stored["version"],
        )


@dataclass(frozen=True, slots=True)
class Silence:
    """A silence to evaluate: from one reading to the next; `end` None: up to `until`.

    Levels with a delay over `longest` are not raised.
    """

    begin: datetime
    end: datetime | None = None
    until: datetime | None = None
    longest: timedelta = timedelta.max
    ends: Sequence[EndByUser] = ()

    def contains(self, at: datetime) -> bool:
        """Return whether a change can happen at the time."""
        if self.end is not None:
            return self.begin < at < self.end
        return self.until is not None and self.begin < at <= self.until


def silence_changes(rule: SilenceRule, silence: Silence) -> list[EpisodeChange]:
    """Return the changes of episodes in a silence, with the end by the next reading."""
    changes: list[EpisodeChange] = []
    begin, severity, is_blocked = silence.begin, "", False
    versions = {one.effective_at for one in rule.versions}
    times = versions | {rule.raised_at(begin, delay) for delay in rule.delays()}
    steps: list[tuple[EventPosition, EndByUser | None]] = [
        (EventPosition(at, EventRank.VERSION), None) for at in times if silence.contains(at)
    ]
    steps += [(one.position, one) for one in silence.ends if silence.contains(one.at)]
    for position, end in sorted(steps, key=lambda one: one[0]):
        if end is not None:
            if severity:
                cause = ChangeCause.RULE_CHANGED if end.is_final else ChangeCause.ENDED_BY_USER
                changes.append(_change(rule, begin, position, severity, "", cause))
                if not end.is_final:
                    again = EventPosition(end.at, EventRank.STILL_RAISED)
                    changes.append(_change(rule, begin, again, "", severity, ChangeCause.STILL_RAISED))
            if end.is_final:
                is_blocked, severity = True, ""
            continue
        # A component that left the rule is evaluated again from the next version on.
        is_blocked = is_blocked and position.at not in versions
        after = "" if is_blocked else rule.severity(begin, position.at, silence.longest)
        if after != severity:
            cause = ChangeCause.RULE_CHANGED if severity and position.at in versions else ChangeCause.SILENCE
            changes.append(_change(rule, begin, position, severity, after, cause))
            severity = after
    if severity and silence.end is not None:
        position = EventPosition(silence.end, EventRank.SAMPLE)
        changes.append(_change(rule, begin, position, severity, "", ChangeCause.READING))
    return changes


def _change(
    rule: SilenceRule, begin: datetime, position: EventPosition, before: str, after: str, cause: ChangeCause
) -> EpisodeChange:
    version = rule.version_at(position.at) or rule.versions[0]
    reading = position.at if cause is ChangeCause.READING else begin
    states = (
        EpisodeState.ACTIVE if before else EpisodeState.NORMAL,
        EpisodeState.ACTIVE if after else EpisodeState.ENDED,
    )
    state = SeriesState(position, version.number, ())
    return EpisodeChange(position, *states, before, after, cause, version.number, begin, Sample(reading, 0.0), state)


class SilenceRecord(Protocol):
    """The stored readings of a component and the recorded changes of a rule's episodes for it."""

    def reading_before(self, at: datetime) -> datetime | None:
        """Return the time of the last reading before a time."""
        ...

    def reading_times(self, start: datetime, stop: datetime) -> Sequence[datetime]:
        """Return the times of the readings from a time up to another, both included, in order."""
        ...

    def reading_after(self, at: datetime) -> datetime | None:
        """Return the time of the first reading after a time."""
        ...

    def ends(self, after: datetime, until: datetime) -> Sequence[EndByUser]:
        """Return the ends by hand after a time up to another."""
        ...

    def changes_after(self, position: EventPosition) -> Sequence[StoredChange]:
        """Return the recorded changes after the position, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class SilenceArrivals:
    """Times of readings that were stored since the last evaluation, the newest time of storing, and the late ones."""

    times: Sequence[datetime]
    stored_at: datetime
    delayed: Collection[EventPosition] = frozenset()


def advance_by_readings(
    rule: SilenceRule, state: SilenceState, arrivals: SilenceArrivals, record: SilenceRecord
) -> tuple[SilenceState, Advance | None]:
    """Evaluate arrivals: silences that they end, and those of the past that they split. None: nothing changed."""
    times = sorted(set(arrivals.times))
    newer = [at for at in times if at > state.last]
    older = [at for at in times if at < state.last]
    shortest = min(rule.delays(), default=timedelta.max)
    is_quick = not state.is_open and all(b - a <= shortest for a, b in pairwise([state.last, *newer]))
    result: Advance | None = None
    if older or (newer and not is_quick):
        start = state.last if not older else record.reading_before(older[0])
        stop = newer[-1] if newer else min(state.last, record.reading_after(older[-1]) or state.last)
        begin = start if start is not None else older[0]
        within = [state.last, *newer] if not older else record.reading_times(begin, stop)
        silences = [Silence(a, b, ends=record.ends(a, b) if b - a > shortest else ()) for a, b in pairwise(within)]
        changes = [change for silence in silences for change in silence_changes(rule, silence)]
        after = EventPosition(begin, EventRank.SAMPLE)
        if start is None:
            after = EventPosition(rule.versions[0].effective_at, EventRank.VERSION)
        end = EventPosition(stop, EventRank.SAMPLE)
        recorded = [one for one in record.changes_after(after) if newer or one.change.position <= end]
        result = _advance(state, recorded, changes, arrivals.delayed)
    is_open = state.is_open and not newer
    arrived = state.arrived if is_open else max(state.arrived, arrivals.stored_at)
    return SilenceState(max([state.last, *newer]), arrived, is_open, rule.versions[-1].number), result


def advance_by_time(
    rule: SilenceRule, state: SilenceState, until: datetime, record: SilenceRecord, *, longest: timedelta
) -> tuple[SilenceState, Advance]:
    """Evaluate the silence since the newest reading up to a time; `longest` is how long no data has arrived."""
    silence = Silence(state.last, until=until, longest=longest, ends=record.ends(state.last, until))
    changes = silence_changes(rule, silence)
    recorded = record.changes_after(EventPosition(state.last, EventRank.SAMPLE))
    result = _advance(state, recorded, changes, frozenset())
    is_open = bool(changes) and changes[-1].to_state in OPEN_STATES
    return SilenceState(state.last, state.arrived, is_open, rule.versions[-1].number), result


def next_look(rule: SilenceRule, state: SilenceState, after: datetime | None, grace: timedelta) -> datetime | None:
    """Return when the next level can be raised at the earliest; `after`: levels due until then were evaluated."""
    levels = rule.versions[-1].levels
    delays = [level.delay(rule.interval) for level in levels]
    times = [max(rule.raised_at(state.last, one), state.arrived + one) + grace for one in delays]
    return min((at for at in times if after is None or at > after), default=None)


def _advance(
    state: SilenceState,
    recorded: Sequence[StoredChange],
    changes: Sequence[EpisodeChange],
    delayed: Collection[EventPosition],
) -> Advance:
    frontier = EventPosition(state.last, EventRank.SAMPLE)
    evaluation = Evaluation(SeriesState(frontier, 0, ()), tuple(changes))
    return revise(None, recorded, evaluation, frontier, delayed)
