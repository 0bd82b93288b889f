"""Random histories of a series with late, doubled and reordered data, rule edits, ends by hand and killed steps."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from alarms.domain import revision
from alarms.domain.evaluation import EndByUser, EpisodeChange, Event, EventPosition, Sample, SeriesState, initial_state
from alarms.domain.revision import Advance, Arrivals, StoredChange
from alarms.domain.rules import Band, Level, RuleHistory, RuleVersion

T0 = datetime(2026, 11, 1, tzinfo=UTC)
MAX_GAP = timedelta(seconds=120)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def level(severity: str, limit: float, hysteresis: float, raise_after: float, clear_after: float) -> Level:
    """Return a level that is raised above the limit."""
    delays = timedelta(seconds=raise_after), timedelta(seconds=clear_after)
    return Level(severity, Band(high=limit), Band(high=limit - hysteresis), *delays)


@dataclass
class EpisodeRecord:
    changes: list[int] = field(default_factory=list)
    late: bool = False
    retracted: bool = False


@dataclass
class MemoryRecord:
    """What the database holds: stored events, recorded changes and episodes, and the state."""

    events_stored: list[Event] = field(default_factory=list)
    changes: dict[int, StoredChange] = field(default_factory=dict)
    late: dict[int, bool] = field(default_factory=dict)
    episodes: dict[int, EpisodeRecord] = field(default_factory=dict)
    ids: int = 0

    def _sorted(self) -> list[StoredChange]:
        return sorted(self.changes.values(), key=lambda one: one.change.position)

    def last_change_before(self, position: EventPosition) -> StoredChange | None:
        earlier = [one for one in self._sorted() if one.change.position < position]
        return earlier[-1] if earlier else None

    def changes_after(self, position: EventPosition) -> Sequence[StoredChange]:
        return [one for one in self._sorted() if one.change.position > position]

    def events(self, after: EventPosition, until: EventPosition) -> Iterable[Event]:
        between = {one for one in self.events_stored if after < one.position <= until}
        return sorted(between, key=lambda one: one.position)

    def last_sample(self, after: EventPosition, before: EventPosition, version: RuleVersion | None) -> Sample | None:
        levels = version.levels if version else ()
        found = [
            one
            for one in self.events_stored
            if isinstance(one, Sample)
            and after < one.position < before
            and not any(level.raises(one.value) for level in levels)
        ]
        return max(found, key=lambda one: one.position, default=None)

    def write(self, result: Advance) -> None:
        for number in result.superseded:
            del self.changes[number]
        for number in result.retracted:
            self.episodes[number].retracted = True
        for one in result.revisions:
            episode = self._new_id() if one.episode is None else one.episode
            record = self.episodes.setdefault(episode, EpisodeRecord())
            for change in one.changes:
                number = self._new_id() if change.id is None else change.id
                self.changes[number] = StoredChange(number, episode, change.change)
                self.late.setdefault(number, change.late)
            record.late = record.late or one.late

    def _new_id(self) -> int:
        self.ids += 1
        return self.ids


@dataclass
class Script:
    """A history: the versions in the order of their edits, and steps of arrivals."""

    versions: list[RuleVersion]
    samples: list[Sample]
    # Each a list of samples, a new version, "end", or ("kill", samples).
    steps: list[Any]


def random_script(source: random.Random) -> Script:
    """Return a random history of up to 40 readings."""
    samples, now = [], 0.0
    for _ in range(source.randint(3, 40)):
        now += source.choice([0, 30, 60, 60, 60, 90, 120, 121, 600])
        samples.append(Sample(at(now), float(source.choice([0, 9, 10, 11, 14, 19, 20, 21, 25, 40]))))
    versions = [RuleVersion(1, at(source.choice([-100, 0, 100])), _random_levels(source))]
    steps: list[Any] = _random_arrivals(source, samples)
    for number in range(2, 2 + source.choice([0, 0, 1, 2])):
        effective = max(at(source.uniform(0, now)), versions[-1].effective_at + timedelta(seconds=1))
        versions.append(RuleVersion(number, effective, () if source.random() < 0.2 else _random_levels(source)))
    positions = sorted(source.randint(0, len(steps)) for _ in versions[1:])
    for offset, (position, version) in enumerate(zip(positions, versions[1:], strict=True)):
        steps.insert(position + offset, version)
    for _ in range(source.choice([0, 0, 1, 2])):
        steps.insert(source.randint(1, len(steps)), "end")
    return Script(versions, samples, steps)


def _random_levels(source: random.Random) -> tuple[Level, ...]:
    delays = [0, 0, 60, 90, 180]
    found, limit = [], 10.0
    for severity in source.sample(["info", "warning", "critical"], source.randint(1, 3)):
        found.append(level(severity, limit, source.choice([0, 1, 5]), source.choice(delays), source.choice(delays)))
        limit += source.choice([0, 5, 10])
    severities = sorted((one.severity for one in found), key=["info", "warning", "critical"].index)
    return tuple(
        Level(severity, one.raise_band, one.clear_band, one.raise_after, one.clear_after)
        for severity, one in zip(severities, found, strict=True)
    )


def _random_arrivals(source: random.Random, samples: Sequence[Sample]) -> list[Any]:
    disorder = source.choice([0, 0, 1, 3, 100])
    order = sorted(range(len(samples)), key=lambda index: index + source.uniform(0, disorder))
    arrived = [samples[index] for index in order]
    steps: list[Any] = []
    while arrived:
        count = source.randint(1, 6)
        batch, arrived = arrived[:count], arrived[count:]
        if source.random() < 0.2:
            batch.append(source.choice(samples[: max(1, len(samples) - len(arrived))]))
        if source.random() < 0.15:
            steps.append(("kill", batch))
        steps.append(batch)
    return steps


def play(script: Script) -> tuple[MemoryRecord, SeriesState, list[RuleVersion]]:
    """Carry out the steps as the process does: each is one transaction, and a killed one changes nothing."""
    record, versions = MemoryRecord(), script.versions[:1]
    state = initial_state(RuleHistory(versions))
    for step in script.steps:
        arrivals: list[Event] = []
        until = None
        if isinstance(step, RuleVersion):
            versions.append(step)
            until = step.effective_at
        elif step == "end":
            arrivals = [EndByUser(max(state.position.at, at(0)) + timedelta(seconds=1))]
        elif isinstance(step, tuple):
            # Stored and evaluated, but the transaction of the evaluation is rolled back.
            record.events_stored.extend(step[1])
            revision.advance(RuleHistory(versions), state, Arrivals(step[1]), record, max_gap=MAX_GAP)
            continue
        else:
            arrivals = step
        record.events_stored.extend(arrivals)
        result = revision.advance(
            RuleHistory(versions), state, Arrivals(arrivals), record, max_gap=MAX_GAP, until=until
        )
        record.write(result)
        state = SeriesState.from_stored(result.state.stored())
    return record, state, versions


def recorded_changes(record: MemoryRecord) -> list[tuple[Any, ...]]:
    """Return the changes that are recorded, in the form of the oracle."""
    order = sorted(record.changes.values(), key=lambda one: one.change.position)
    return [_plain(one.change) for one in order]


def _plain(change: EpisodeChange) -> tuple[Any, ...]:
    states = str(change.from_state), str(change.to_state)
    return change.position, *states, change.from_severity, change.severity, str(change.cause)
