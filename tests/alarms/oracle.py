"""A simple model of alarms: for each event, every level is derived from the whole history again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from alarms.domain.evaluation import EndByUser, Event, EventPosition, EventRank, Sample
from alarms.domain.rules import Level, RuleVersion


@dataclass
class Segment:
    """The readings since the last new version or the last end by hand, and the levels at the beginning."""

    version: RuleVersion
    raised: set[str]
    samples: list[Sample]

    def is_raised(self, level: Level, max_gap: timedelta) -> bool:
        last_raise = self._last(level.raises, level.raise_after, max_gap)
        last_clear = self._last(level.clears, level.clear_after, max_gap)
        if last_raise == last_clear == -1:
            return level.severity in self.raised
        return last_raise > last_clear

    def _last(self, holds: Any, delay: timedelta, max_gap: timedelta) -> int:
        """Return the last reading at which the condition had held for the delay."""
        for end in reversed(range(len(self.samples))):
            counted, begin = timedelta(), end
            while begin >= 0 and holds(self.samples[begin].value):
                if counted >= delay:
                    return end
                if begin and holds(self.samples[begin - 1].value):
                    gap = self.samples[begin].at - self.samples[begin - 1].at
                    counted += gap if gap <= max_gap else timedelta()
                begin -= 1
        return -1

    def state(self, max_gap: timedelta) -> tuple[str, str]:
        raised = [level for level in self.version.levels if self.is_raised(level, max_gap)]
        last = self.samples[-1].value if self.samples else None
        if not raised:
            pending = last is not None and any(level.raises(last) for level in self.version.levels)
            return ("PENDING" if pending else "NORMAL"), ""
        recovering = last is not None and all(level.clears(last) for level in raised)
        return ("RECOVERING" if recovering else "ACTIVE"), raised[-1].severity


def expected_changes(
    versions: Sequence[RuleVersion], events: Sequence[Event], max_gap: timedelta, *, until: Any
) -> list[tuple[Any, ...]]:
    """Return (position, from state, to state, from severity, severity, cause) of each change."""
    everything: list[tuple[EventPosition, Any]] = [(one.position, one) for one in set(events)]
    everything += [(EventPosition(one.effective_at, EventRank.VERSION), one) for one in versions]
    changes: list[tuple[Any, ...]] = []
    segment: Segment | None = None
    last: Sample | None = None
    for position, event in sorted(everything, key=lambda one: one[0]):
        if segment is None:
            segment = Segment(event, set(), []) if isinstance(event, RuleVersion) else None
            continue
        if isinstance(event, RuleVersion) and position > until:
            continue
        before = segment.state(max_gap)
        raised = {one.severity for one in segment.version.levels if segment.is_raised(one, max_gap)}
        if isinstance(event, RuleVersion):
            segment = Segment(event, raised & {one.severity for one in event.levels}, [])
            _note(changes, position, before, segment.state(max_gap), "rule_changed")
        elif isinstance(event, EndByUser):
            if not raised:
                continue
            _note(changes, position, before, ("NORMAL", ""), "ended_by_user")
            again = {one.severity for one in segment.version.levels if last is not None and one.raises(last.value)}
            segment = Segment(segment.version, again, [])
            position = EventPosition(position.at, EventRank.STILL_RAISED)
            _note(changes, position, ("NORMAL", ""), segment.state(max_gap), "still_raised")
        else:
            last = event
            segment.samples.append(event)
            _note(changes, position, before, segment.state(max_gap), "reading")
    return changes


def _note(
    changes: list[tuple[Any, ...]], position: EventPosition, before: tuple[str, str], after: tuple[str, str], cause: str
) -> None:
    if before == after or not (before[1] or after[1]):
        return
    to_state = after[0] if after[1] else "ENDED"
    changes.append((position, before[0], to_state, before[1], after[1], cause))
