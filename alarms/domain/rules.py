"""Alarm rules as plain values: levels with hysteresis and delays, and the versions of a rule in time."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

# From the least severe.
SEVERITIES = ("info", "warning", "minor", "major", "critical")
MAX_LEVELS = 5
MAX_DELAY = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Band:
    """Limits of a value; None: no limit on that side."""

    low: float | None = None
    high: float | None = None

    def is_outside(self, value: float) -> bool:
        """Return whether the value is below the low limit or above the high one."""
        return (self.low is not None and value < self.low) or (self.high is not None and value > self.high)

    def contains(self, other: "Band") -> bool:
        """Return whether no value inside the other band is outside this one. Both limit the same sides."""
        low = self.low is None or (other.low is not None and other.low >= self.low)
        high = self.high is None or (other.high is not None and other.high <= self.high)
        return low and high


@dataclass(frozen=True, slots=True)
class Level:
    """A severity that is raised outside one band, and cleared inside another.

    The second band lies inside the first: between the two, the level stays as it is.
    """

    severity: str
    raise_band: Band
    clear_band: Band
    raise_after: timedelta = timedelta()
    clear_after: timedelta = timedelta()

    def raises(self, value: float) -> bool:
        """Return whether the value raises the level."""
        return self.raise_band.is_outside(value)

    def clears(self, value: float) -> bool:
        """Return whether the value clears the level."""
        return not self.clear_band.is_outside(value)


@dataclass(frozen=True, slots=True)
class RuleVersion:
    """A version of a rule, from the least severe level; it evaluates readings of its effective time and later.

    A disabled version has no levels: episodes end at its effective time.
    """

    number: int
    effective_at: datetime
    levels: tuple[Level, ...] = ()


class RuleHistory:
    """The versions of a rule, in the order of their effective times, which differ."""

    def __init__(self, versions: Sequence[RuleVersion]) -> None:
        self.versions = tuple(versions)
        self._times = [version.effective_at for version in versions]

    def version_at(self, at: datetime) -> RuleVersion | None:
        """Return the version that evaluates readings of this time, None before the first version."""
        index = bisect_right(self._times, at)
        return self.versions[index - 1] if index else None

    def version(self, number: int) -> RuleVersion:
        """Return the version with this number. Raises KeyError."""
        for version in self.versions:
            if version.number == number:
                return version
        raise KeyError(number)
