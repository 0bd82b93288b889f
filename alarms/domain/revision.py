"""The next state of a series with the changes of its episodes, also where data arrived late.

Late data is evaluated with all data after it, from the last state before it that is certain. The result is compared
with the recorded changes: what differs is superseded and added, so that the record is what it would have been had the
data arrived in time. An episode keeps its identity as long as it begins with the same change, or overlaps.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from .evaluation import (
    OPEN_STATES,
    EpisodeChange,
    EpisodeState,
    Evaluation,
    Event,
    EventPosition,
    EventRank,
    Sample,
    SeriesState,
    evaluate,
    initial_state,
    normal_state,
)
from .rules import RuleHistory, RuleVersion


@dataclass(frozen=True, slots=True)
class StoredChange:
    """A change that is recorded: its id and the id of its episode."""

    id: int
    episode: int
    change: EpisodeChange


@dataclass(frozen=True, slots=True)
class RevisedChange:
    """A change to keep (with the id of its record) or to add. `late`: it lies in the past of what was evaluated."""

    id: int | None
    change: EpisodeChange
    late: bool = False


@dataclass(frozen=True, slots=True)
class EpisodeRevision:
    """The changes of one episode from the first evaluated event on; `episode` is None for a new one.

    `late`: the episode was found in the past, or it is over and changed there.
    """

    episode: int | None
    changes: tuple[RevisedChange, ...]
    late: bool

    @property
    def is_open(self) -> bool:
        """Whether the episode is open after its last change."""
        return self.changes[-1].change.to_state in OPEN_STATES


@dataclass(frozen=True, slots=True)
class Advance:
    """The next state, and what must change in the record.

    `superseded` are ids of changes that are not true any more, `retracted` those of episodes that never were.
    `confirmed`: the newest reading arrived in time and finds an episode open.
    """

    state: SeriesState
    revisions: tuple[EpisodeRevision, ...] = ()
    superseded: tuple[int, ...] = ()
    retracted: tuple[int, ...] = ()
    confirmed: bool = False


class SeriesRecord(Protocol):
    """The stored events of a series and the recorded changes of a rule's episodes for it."""

    def last_change_before(self, position: EventPosition) -> StoredChange | None:
        """Return the last recorded change before the position."""
        ...

    def changes_after(self, position: EventPosition) -> Sequence[StoredChange]:
        """Return the recorded changes after the position, in their order."""
        ...

    def events(self, after: EventPosition, until: EventPosition) -> Iterable[Event]:
        """Return the events after a position up to another, in their order."""
        ...

    def last_sample(self, after: EventPosition, before: EventPosition, version: RuleVersion | None) -> Sample | None:
        """Return the last reading between two positions; with a version, the last that raises none of its levels."""
        ...


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Events that were stored since the last evaluation; `delayed`: readings that arrived long after their times."""

    events: Sequence[Event]
    delayed: Collection[EventPosition] = field(default_factory=frozenset)


def advance(
    history: RuleHistory,
    state: SeriesState,
    arrivals: Arrivals,
    record: SeriesRecord,
    *,
    max_gap: timedelta,
    until: datetime | None = None,
) -> Advance:
    """Evaluate the arrivals, and everything after the earliest of them where that is already evaluated.

    Versions of the rule become effective up to the last arrival, or up to `until`.
    """
    begin = EventPosition(history.versions[0].effective_at, EventRank.VERSION)
    events = sorted({event.position: event for event in arrivals.events if event.position > begin}.items())
    end = max([state.position, *(position for position, _ in events[-1:])])
    if until is not None:
        end = max(end, EventPosition(until, EventRank.VERSION))
    # A version that is effective before the last evaluated reading: the device's clock is ahead.
    missing = [one for one in map(_begin_of, history.versions) if state.position >= one > _begin_in(history, state)]
    first = min([end, *(position for position, _ in events[:1]), *missing])
    if first > state.position or not (events or missing):
        evaluation = evaluate(history, state, [event for _, event in events], max_gap=max_gap, until=end)
        # Most readings change nothing, and cost no query.
        needs_episode = state.is_open and evaluation.changes
        open_episode = _open_episode(record.last_change_before(first)) if needs_episode else None
        recorded: Sequence[StoredChange] = ()
    else:
        start, open_episode = _restart(history, first, record)
        evaluation = evaluate(history, start, record.events(start.position, end), max_gap=max_gap, until=end)
        recorded = record.changes_after(start.position)
    newest = events[-1][0] if events else begin
    frontier = state.last.position if state.last is not None else begin
    confirmed = newest > frontier and newest not in arrivals.delayed and evaluation.state.is_open
    result = revise(open_episode, recorded, evaluation, frontier, arrivals.delayed)
    return replace(result, confirmed=confirmed)


def _begin_of(version: RuleVersion) -> EventPosition:
    return EventPosition(version.effective_at, EventRank.VERSION)


def _begin_in(history: RuleHistory, state: SeriesState) -> EventPosition:
    return _begin_of(history.version(state.version))


def _open_episode(change: StoredChange | None) -> int | None:
    return change.episode if change is not None and change.change.to_state in OPEN_STATES else None


def _restart(history: RuleHistory, before: EventPosition, record: SeriesRecord) -> tuple[SeriesState, int | None]:
    """Return the last certain state before the position, and the episode that is open in it."""
    change = record.last_change_before(before)
    base = change.change.after if change is not None else initial_state(history)
    return _later_certain_state(history, base, before, record) or base, _open_episode(change)


def _later_certain_state(
    history: RuleHistory, base: SeriesState, before: EventPosition, record: SeriesRecord
) -> SeriesState | None:
    """Return a state after `base` without running delays, where one reading shows it: no change lies between."""
    if base.is_open:
        version = history.version_at(before.at)
        if version is None or version.number != base.version or len(base.levels) > 1 or _is_recovering(base):
            return None
        sample = record.last_sample(base.position, before, None)
        return None if sample is None else replace(base, position=sample.position, last=sample)
    for version in reversed(history.versions):
        begin = _begin_of(version)
        if begin < before and (sample := record.last_sample(max(begin, base.position), before, version)):
            return normal_state(version, sample.position, sample)
        before = min(begin, before)
        if before <= base.position:
            break
    return None


def _is_recovering(state: SeriesState) -> bool:
    return state.state is EpisodeState.RECOVERING


@dataclass(slots=True)
class _Span:
    """The changes of one episode, with its begin and end; an end of None: it is open."""

    changes: list[EpisodeChange]

    @property
    def begin(self) -> EventPosition:
        return self.changes[0].position

    @property
    def end(self) -> EventPosition | None:
        return None if self.changes[-1].to_state in OPEN_STATES else self.changes[-1].position

    def overlaps(self, other: "_Span") -> bool:
        """Return whether the two episodes have a time in common."""
        return (self.end is None or other.begin <= self.end) and (other.end is None or self.begin <= other.end)


def revise(
    open_episode: int | None,
    recorded: Sequence[StoredChange],
    evaluation: Evaluation,
    frontier: EventPosition,
    delayed: Collection[EventPosition],
) -> Advance:
    """Compare the evaluated changes with the recorded ones; return what must change in the record."""
    computed = evaluation.changes
    by_identity = {one.change.identity: one for one in recorded}
    spans = _spans(computed)
    episodes = _assigned(open_episode, recorded, spans, by_identity)
    kept = {one.identity for one in computed}
    superseded = tuple(one.id for one in recorded if one.change.identity not in kept)
    lost = {one.episode for one in recorded if one.change.identity not in kept}
    revisions = []
    for span, episode in zip(spans, episodes, strict=True):
        changes = []
        for change in span.changes:
            old = by_identity.get(change.identity)
            late = change.position <= frontier or change.position in delayed
            changes.append(RevisedChange(None if old is None else old.id, change, late and old is None))
        is_over = span.end is not None
        late = changes[0].late if not is_over else episode in lost or any(one.late for one in changes)
        revisions.append(EpisodeRevision(episode, tuple(changes), late))
    before = {one.episode for one in recorded} - {open_episode}
    return Advance(evaluation.state, tuple(revisions), superseded, tuple(sorted(before - set(episodes))))


def _spans(changes: Iterable[EpisodeChange]) -> list[_Span]:
    spans: list[_Span] = []
    for change in changes:
        if not spans or change.from_state not in OPEN_STATES:
            spans.append(_Span([]))
        spans[-1].changes.append(change)
    return spans


def _assigned(
    open_episode: int | None,
    recorded: Sequence[StoredChange],
    spans: Sequence[_Span],
    by_identity: dict[tuple[object, ...], StoredChange],
) -> list[int | None]:
    """Return the episode of each span: by the same first change, or else the first free one that overlaps."""
    known: dict[int, _Span] = {}
    for one in recorded:
        if one.episode != open_episode:
            known.setdefault(one.episode, _Span([])).changes.append(one.change)
    episodes: list[int | None] = []
    for span in spans:
        first = by_identity.get(span.changes[0].identity)
        if span.changes[0].from_state in OPEN_STATES:
            episodes.append(open_episode)
        else:
            episodes.append(first.episode if first is not None and first.episode in known else None)
    for index, span in enumerate(spans):
        if episodes[index] is None:
            free = [one for one, old in known.items() if one not in episodes and old.overlaps(span)]
            episodes[index] = free[0] if free else None
    return episodes
