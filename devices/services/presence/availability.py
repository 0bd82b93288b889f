"""What the ledger says of a stretch of time: which state a device was in when, and how available it was.

Pure functions over rows of the ledger (`devices.services.presence.status_changes` reads them). The definitions:

* ONLINE is available. OFFLINE and TIMEOUT are an outage.
* UNKNOWN time, and the time of maintenance windows, counts neither way: neither as available nor as an outage.
* An outage lasts until the device is ONLINE again. So TIMEOUT and then OFFLINE is one outage, and so is one that
  time which counts neither way lies within; its length is without that time.
* The percentage is the available time of the time that counts. The mean time between failures is the available
  time over the number of outages.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

ONLINE = "ONLINE"
UNKNOWN = "UNKNOWN"
OUTAGE = frozenset({"OFFLINE", "TIMEOUT"})

Window = tuple[datetime, datetime]  # from, until


class Row(Protocol):
    """What is read of a row of the ledger (a `StatusChange`)."""

    @property
    def to_status(self) -> str: ...

    @property
    def at(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time in one state: start ≤ time < stop."""

    status: str
    start: datetime
    stop: datetime

    @property
    def seconds(self) -> float:
        return (self.stop - self.start).total_seconds()


@dataclass(frozen=True, slots=True)
class Availability:
    """How available a device was; the module says what each figure means.

    `percent` is None where no time counts, `mean_time_between_failures_seconds` where there was no outage.
    """

    percent: float | None
    outages: int
    longest_outage_seconds: float
    mean_time_between_failures_seconds: float | None
    known_seconds: float


def timeline(rows: Iterable[Row], status_before: str, start: datetime, stop: datetime) -> list[Segment]:
    """The states from start to stop, without gap or overlap; neighbours differ. Empty where stop ≤ start.

    `rows` in the order in which they were recorded, `status_before` the state before the first of them. A change
    counts from when it was recorded; of clocks that were set back, it counts from the change before it.
    """
    segments: list[Segment] = []
    status, since = status_before, start
    for row in rows:
        at = min(max(row.at, since), stop)
        _extend(segments, Segment(status, since, at))
        status, since = row.to_status, at
    _extend(segments, Segment(status, since, stop))
    return segments


def between(segments: Iterable[Segment], start: datetime, stop: datetime) -> list[Segment]:
    """The part of the segments that lies in start ≤ time < stop."""
    cut = (replace(one, start=max(one.start, start), stop=min(one.stop, stop)) for one in segments)
    return [one for one in cut if one.start < one.stop]


def without(segments: Iterable[Segment], windows: Iterable[Window]) -> list[Segment]:
    """The segments without the time of the windows, which may overlap; what was around a window is two segments."""
    left = list(segments)
    for start, stop in windows:
        left = [part for one in left for part in _cut_out(one, start, stop)]
    return left


def availability(segments: Sequence[Segment]) -> Availability:
    """The figures over segments in order, from which maintenance windows are taken out already (`without`)."""
    up = sum(one.seconds for one in segments if one.status == ONLINE)
    outages = _outages(segments)
    known = up + sum(outages)
    return Availability(
        # In this order, so that all of the time is exactly 100.
        percent=100.0 * (up / known) if known else None,
        outages=len(outages),
        longest_outage_seconds=max(outages, default=0.0),
        mean_time_between_failures_seconds=up / len(outages) if outages else None,
        known_seconds=known,
    )


def shares(segments: Iterable[Segment]) -> dict[str, float]:
    """Seconds in each state that occurs."""
    seconds: dict[str, float] = {}
    for one in segments:
        seconds[one.status] = seconds.get(one.status, 0.0) + one.seconds
    return seconds


def thinned(segments: Sequence[Segment], slots: int) -> list[Segment]:
    """At most `slots` segments over the same time: each slot in the worst state that it holds. For drawing."""
    if len(segments) <= slots:
        return list(segments)
    start, stop = segments[0].start, segments[-1].stop
    width = (stop - start) / slots
    worst: list[str] = [""] * slots
    for one in segments:
        first = min(int((one.start - start) / width), slots - 1)
        # The end belongs to no segment: a microsecond before it is the last of it.
        last = min(int((one.stop - timedelta(microseconds=1) - start) / width), slots - 1)
        for slot in range(first, last + 1):
            worst[slot] = max(worst[slot], one.status, key=_SEVERITY.index)
    drawn: list[Segment] = []
    for slot, status in enumerate(worst):
        until = stop if slot == slots - 1 else start + width * (slot + 1)
        _extend(drawn, Segment(status, drawn[-1].stop if drawn else start, until))
    return drawn


_SEVERITY = ("", UNKNOWN, ONLINE, "TIMEOUT", "OFFLINE")


def _extend(segments: list[Segment], one: Segment) -> None:
    """Add the segment; to the last one where that is of the same state."""
    if one.start >= one.stop:
        return
    if segments and segments[-1].status == one.status and segments[-1].stop == one.start:
        segments[-1] = replace(segments[-1], stop=one.stop)
    else:
        segments.append(one)


def _cut_out(one: Segment, start: datetime, stop: datetime) -> list[Segment]:
    if stop <= one.start or one.stop <= start:
        return [one]
    before = replace(one, stop=start) if one.start < start else None
    after = replace(one, start=stop) if stop < one.stop else None
    return [part for part in (before, after) if part is not None]


def _outages(segments: Iterable[Segment]) -> list[float]:
    """The seconds of each outage."""
    outages: list[float] = []
    ongoing = False
    for one in segments:
        if one.status == ONLINE:
            ongoing = False
        elif one.status in OUTAGE:
            if not ongoing:
                outages.append(0.0)
            outages[-1] += one.seconds
            ongoing = True
    return outages
