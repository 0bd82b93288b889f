"""States of a device over time and its availability, computed from its status changes.

Pure functions over status changes (`devices.services.presence.status_changes` reads them). Definitions:

* ONLINE is available. OFFLINE and TIMEOUT are an outage.
* UNKNOWN time and the time of maintenance windows are not counted: neither as available nor as an outage.
* An outage lasts until the device is ONLINE again. TIMEOUT followed by OFFLINE is one outage, and so is an outage with
  uncounted time inside; its length excludes that time.
* The percentage is the available part of the counted time. The mean time between failures is the available time
  divided by the number of outages.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

ONLINE = "ONLINE"
UNKNOWN = "UNKNOWN"
OUTAGE = frozenset({"OFFLINE", "TIMEOUT"})

Window = tuple[datetime, datetime]  # from, until


class RecordedChange(Protocol):
    """The members of a `StatusChange` that are read here."""

    @property
    def to_status(self) -> str: ...

    @property
    def at(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """A period of time in one state: start ≤ time < stop."""

    status: str
    start: datetime
    stop: datetime

    @property
    def seconds(self) -> float:
        """Return the length in seconds."""
        return (self.stop - self.start).total_seconds()


@dataclass(frozen=True, slots=True)
class Availability:
    """The availability of a device, as defined in the module's docstring.

    `percent` is None without counted time, `mean_time_between_failures_seconds` without outages.
    """

    percent: float | None
    outages: int
    longest_outage_seconds: float
    mean_time_between_failures_seconds: float | None
    known_seconds: float


def timeline(rows: Iterable[RecordedChange], status_before: str, start: datetime, stop: datetime) -> list[Segment]:
    """Return the states from start to stop, without gaps or overlaps; neighbours differ. Empty where stop ≤ start.

    `rows` are in the order of recording, `status_before` is the state before the first. A change counts from the time
    of its recording; if the clock was set back meanwhile, from the time of the previous change.
    """
    segments: list[Segment] = []
    status, since = status_before, start
    for row in rows:
        at = min(max(row.at, since), stop)
        _extend(segments, Segment(status, since, at))
        status, since = row.to_status, at
    _extend(segments, Segment(status, since, stop))
    return segments


def clip(segments: Iterable[Segment], start: datetime, stop: datetime) -> list[Segment]:
    """Return the parts of the segments within start ≤ time < stop."""
    cut = (replace(segment, start=max(segment.start, start), stop=min(segment.stop, stop)) for segment in segments)
    return [segment for segment in cut if segment.start < segment.stop]


def exclude_windows(segments: Iterable[Segment], windows: Iterable[Window]) -> list[Segment]:
    """Return the segments without the time of the windows, which may overlap. A window within a segment splits it."""
    left = list(segments)
    for start, stop in windows:
        left = [part for segment in left for part in _cut_out(segment, start, stop)]
    return left


def measure(segments: Sequence[Segment]) -> Availability:
    """Return the availability over ordered segments without maintenance windows (`exclude_windows`)."""
    up = sum(segment.seconds for segment in segments if segment.status == ONLINE)
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


def seconds_by_status(segments: Iterable[Segment]) -> dict[str, float]:
    """Return the seconds in each state that occurs."""
    seconds: dict[str, float] = {}
    for segment in segments:
        seconds[segment.status] = seconds.get(segment.status, 0.0) + segment.seconds
    return seconds


def downsample(segments: Sequence[Segment], slots: int) -> list[Segment]:
    """Return at most `slots` segments over the same time, each slot in its worst state. For drawing."""
    if len(segments) <= slots:
        return list(segments)
    start, stop = segments[0].start, segments[-1].stop
    width = (stop - start) / slots
    worst: list[str] = [""] * slots
    for segment in segments:
        first = min(int((segment.start - start) / width), slots - 1)
        # The end belongs to no segment: a microsecond before it is the last of it.
        last = min(int((segment.stop - timedelta(microseconds=1) - start) / width), slots - 1)
        for slot in range(first, last + 1):
            worst[slot] = max(worst[slot], segment.status, key=_SEVERITY.index)
    thinned: list[Segment] = []
    for slot, status in enumerate(worst):
        until = stop if slot == slots - 1 else start + width * (slot + 1)
        _extend(thinned, Segment(status, thinned[-1].stop if thinned else start, until))
    return thinned


_SEVERITY = ("", UNKNOWN, ONLINE, "TIMEOUT", "OFFLINE")


def _extend(segments: list[Segment], segment: Segment) -> None:
    """Append the segment, or extend the last one if it has the same state."""
    if segment.start >= segment.stop:
        return
    if segments and segments[-1].status == segment.status and segments[-1].stop == segment.start:
        segments[-1] = replace(segments[-1], stop=segment.stop)
    else:
        segments.append(segment)


def _cut_out(segment: Segment, start: datetime, stop: datetime) -> list[Segment]:
    if stop <= segment.start or segment.stop <= start:
        return [segment]
    before = replace(segment, stop=start) if segment.start < start else None
    after = replace(segment, start=stop) if stop < segment.stop else None
    return [part for part in (before, after) if part is not None]


def _outages(segments: Iterable[Segment]) -> list[float]:
    """Return the seconds of each outage."""
    outages: list[float] = []
    ongoing = False
    for segment in segments:
        if segment.status == ONLINE:
            ongoing = False
        elif segment.status in OUTAGE:
            if not ongoing:
                outages.append(0.0)
            outages[-1] += segment.seconds
            ongoing = True
    return outages
