"""The evaluation of a rule over one series, as one pure function: a state and events give the next state and changes.

Events are evaluated in the order of their own times, whatever the order of their arrival:

* Each level is compared by itself. It is raised when the value has been outside its band for `raise_after`, and
  cleared when the value has been inside its other band for `clear_after`. The severity is that of the highest raised
  level; an episode lasts from the first raised level to the last cleared one.
* Only readings change a level. Time between two readings counts for a delay if both satisfy its condition and the
  gap between them is at most the allowed gap; a longer gap stops the delay, and the next reading resumes it.
* A new version of the rule keeps raised levels by their severity, clears those that it lacks, and restarts delays.
* Ending by hand clears all levels. Those whose condition still holds by the last reading are raised again at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from .rules import Level, RuleHistory, RuleVersion


class EpisodeState(StrEnum):
    """The state of a rule for a series; an episode is ACTIVE or RECOVERING until it is ENDED."""

    NORMAL = "NORMAL"
    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    RECOVERING = "RECOVERING"
    ENDED = "ENDED"


OPEN_STATES = (EpisodeState.ACTIVE, EpisodeState.RECOVERING)


class ChangeCause(StrEnum):
    """The event that changed an episode."""

    READING = "reading"
    RULE_CHANGED = "rule_changed"
    ENDED_BY_USER = "ended_by_user"
    STILL_RAISED = "still_raised"
    SILENCE = "silence"


class EventRank(IntEnum):
    """The order of events of one instant."""

    VERSION = 0
    SAMPLE = 1
    END = 2
    STILL_RAISED = 3


class EventPosition(NamedTuple):
    """The place of an event in the order of times; values of one instant are ordered by value."""

    at: datetime
    rank: int
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading of the series."""

    at: datetime
    value: float

    @property
    def position(self) -> EventPosition:
        return EventPosition(self.at, EventRank.SAMPLE, self.value)


@dataclass(frozen=True, slots=True)
class EndByUser:
    """A user ended the episode that was open at this time; or, if it is final, the component left the rule."""

    at: datetime
    is_final: bool = False

    @property
    def position(self) -> EventPosition:
        return EventPosition(self.at, EventRank.END)


Event = Sample | EndByUser


@dataclass(frozen=True, slots=True)
class LevelState:
    """Whether a level is raised, and the running delay of its next change: its begin and the time that counted."""

    is_raised: bool = False
    since: datetime | None = None
    elapsed: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class SeriesState:
    """The state after the event at `position`; `levels` are those of the version with the number `version`."""

    position: EventPosition
    version: int
    levels: tuple[LevelState, ...]
    last: Sample | None = None

    @property
    def state(self) -> EpisodeState:
        """The state that the levels make together."""
        raised = [level for level in self.levels if level.is_raised]
        if raised:
            is_recovering = all(level.since is not None for level in raised)
            return EpisodeState.RECOVERING if is_recovering else EpisodeState.ACTIVE
        return EpisodeState.PENDING if any(level.since for level in self.levels) else EpisodeState.NORMAL

    @property
    def is_open(self) -> bool:
        """Whether an episode is open."""
        return any(level.is_raised for level in self.levels)

    def severity(self, version: RuleVersion) -> str:
        """Return the severity of the highest raised level; empty: none is raised."""
        raised = [level.severity for level, state in zip(version.levels, self.levels, strict=True) if state.is_raised]
        return raised[-1] if raised else ""

    def stored(self) -> dict[str, Any]:
        """Return the state for a JSON column."""
        return {
            "position": [self.position.at.isoformat(), int(self.position.rank), self.position.value],
            "version": self.version,
            "levels": [
                [one.is_raised, one.since and one.since.isoformat(), one.elapsed // timedelta(microseconds=1)]
                for one in self.levels
            ],
            "last": self.last and [self.last.at.isoformat(), self.last.value],
        }

    @classmethod
    def from_stored(cls, stored: dict[str, Any]) -> "SeriesState":
        """Return the state that `stored` returned."""
        at, rank, value = stored["position"]
        last = stored["last"]
        return cls(
            EventPosition(datetime.fromisoformat(at), rank, value),
            stored["version"],
            tuple(
                LevelState(is_raised, since and datetime.fromisoformat(since), timedelta(microseconds=elapsed))
                for is_raised, since, elapsed in stored["levels"]
            ),
            last and Sample(datetime.fromisoformat(last[0]), last[1]),
        )


@dataclass(frozen=True, slots=True)
class EpisodeChange:
    """A change of an episode with its evidence.

    `since` is the begin of the delay that ended with it, `sample` the last reading, `after` the state after it.
    """

    position: EventPosition
    from_state: EpisodeState
    to_state: EpisodeState
    from_severity: str
    severity: str
    cause: ChangeCause
    version: int
    since: datetime | None
    sample: Sample | None
    after: SeriesState

    @property
    def identity(self) -> tuple[Any, ...]:
        """The members by which two evaluations have the same change, perhaps with other evidence."""
        return self.position, self.from_state, self.to_state, self.from_severity, self.severity, self.cause


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The state after all events, and the changes of episodes on the way."""

    state: SeriesState
    changes: tuple[EpisodeChange, ...]


def initial_state(history: RuleHistory) -> SeriesState:
    """Return the state at the beginning of the rule's first version."""
    return normal_state(history.versions[0], EventPosition(history.versions[0].effective_at, EventRank.VERSION))


def normal_state(version: RuleVersion, position: EventPosition, last: Sample | None = None) -> SeriesState:
    """Return the state without raised levels and running delays."""
    return SeriesState(position, version.number, (LevelState(),) * len(version.levels), last)


def evaluate(
    history: RuleHistory,
    state: SeriesState,
    events: Iterable[Event],
    *,
    max_gap: timedelta,
    until: EventPosition | None = None,
) -> Evaluation:
    """Evaluate events in the order of their positions, all of them after the state's.

    New versions of the rule become effective on the way, up to `until` or else up to the last event.
    """
    changes: list[EpisodeChange] = []
    for event in events:
        for version in _versions_between(history, state.position, event.position):
            state = _record(changes, history, state, _change_version(history, state, version), ChangeCause.RULE_CHANGED)
        if isinstance(event, Sample):
            after = _sampled(history.version(state.version), state, event, max_gap)
            state = _record(changes, history, state, after, ChangeCause.READING)
        else:
            state = _end_by_user(changes, history, state, event)
    if until is not None:
        for version in _versions_between(history, state.position, until):
            state = _record(changes, history, state, _change_version(history, state, version), ChangeCause.RULE_CHANGED)
    return Evaluation(state, tuple(changes))


def _versions_between(history: RuleHistory, after: EventPosition, until: EventPosition) -> Iterator[RuleVersion]:
    for version in history.versions:
        if after < EventPosition(version.effective_at, EventRank.VERSION) <= until:
            yield version


def _sampled(version: RuleVersion, state: SeriesState, sample: Sample, max_gap: timedelta) -> SeriesState:
    gap = sample.at - state.last.at if state.last is not None else timedelta()
    counted = gap if gap <= max_gap else timedelta()
    pairs = zip(version.levels, state.levels, strict=True)
    levels = tuple(_level_sampled(level, one, sample, counted) for level, one in pairs)
    return SeriesState(sample.position, version.number, levels, sample)


def _level_sampled(level: Level, state: LevelState, sample: Sample, counted: timedelta) -> LevelState:
    changes = level.clears(sample.value) if state.is_raised else level.raises(sample.value)
    if not changes:
        return LevelState(state.is_raised)
    since = state.since or sample.at
    elapsed = timedelta() if state.since is None else state.elapsed + counted
    if elapsed >= (level.clear_after if state.is_raised else level.raise_after):
        return LevelState(not state.is_raised)
    return LevelState(state.is_raised, since, elapsed)


def _change_version(history: RuleHistory, state: SeriesState, version: RuleVersion) -> SeriesState:
    old = history.version(state.version)
    raised = {level.severity for level, one in zip(old.levels, state.levels, strict=True) if one.is_raised}
    levels = tuple(LevelState(level.severity in raised) for level in version.levels)
    return SeriesState(EventPosition(version.effective_at, EventRank.VERSION), version.number, levels, state.last)


def _end_by_user(
    changes: list[EpisodeChange], history: RuleHistory, state: SeriesState, event: EndByUser
) -> SeriesState:
    if not state.is_open:
        return replace(state, position=event.position)
    version = history.version(state.version)
    ended = normal_state(version, event.position, state.last)
    cause = ChangeCause.RULE_CHANGED if event.is_final else ChangeCause.ENDED_BY_USER
    _record(changes, history, state, ended, cause)
    if state.last is None or event.is_final:
        return ended
    value = state.last.value
    again = replace(
        ended,
        position=EventPosition(event.at, EventRank.STILL_RAISED),
        levels=tuple(LevelState(level.raises(value)) for level in version.levels),
    )
    return _record(changes, history, ended, again, ChangeCause.STILL_RAISED)


def _record(
    changes: list[EpisodeChange], history: RuleHistory, before: SeriesState, after: SeriesState, cause: ChangeCause
) -> SeriesState:
    """Append the change between the two states, if it is one of an episode, and return the second state."""
    severities = before.severity(history.version(before.version)), after.severity(history.version(after.version))
    states = before.state, after.state if after.is_open or not before.is_open else EpisodeState.ENDED
    if (before.is_open or after.is_open) and (severities[0] != severities[1] or states[0] != states[1]):
        since = min((one.since for one in before.levels if one.since is not None), default=None)
        changes.append(
            EpisodeChange(after.position, *states, *severities, cause, after.version, since, after.last, after)
        )
    return after
