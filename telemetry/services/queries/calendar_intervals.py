"""Calendar intervals in a time zone: minutes, hours, days, weeks and months.

Pure. A time zone's days have 23 to 25 hours, and its hours need not begin with those of UTC, so the edges of the
intervals are computed here, once, as instants; the database only sorts readings between them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from django.utils.translation import gettext as _

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
PATTERN = r"^([1-9][0-9]{0,3})(m|h|d|w|mo)$"
_TEXT = re.compile(PATTERN, re.ASCII)
_MINUTES = {"m": 1, "h": 60}
# Days are counted from a Monday, so that weeks are those of ISO 8601.
_MONDAY = date(1970, 1, 5).toordinal()
_MAX_NUMBER = {"d": 366, "w": 52, "mo": 12}
# The least that a stretch may last, for estimates: no clock is set forward by more than this in one go.
_LEAST_DAYS = {"d": 1, "w": 7, "mo": 28}


class InvalidInterval(ValueError):
    """The text is not a valid interval. The message lists valid ones."""


class TooManyBuckets(ValueError):
    """The range has more intervals than the caller allows."""


@dataclass(frozen=True, slots=True)
class CalendarInterval:
    """A number of minutes, hours, days, weeks or months: `15m`, `6h`, `1d`, `1w`, `1mo`."""

    number: int
    unit: str

    def __str__(self) -> str:
        return f"{self.number}{self.unit}"

    @property
    def shortest(self) -> timedelta:
        """Return the usual minimum length of one interval."""
        if self.unit in _MINUTES:
            return self.number * _MINUTES[self.unit] * MINUTE
        return self.number * _LEAST_DAYS[self.unit] * DAY


def parse_interval(text: str) -> CalendarInterval:
    """Return the interval of a text. Raises InvalidInterval.

    Minutes and hours must divide the day, so that every day begins with one; months must divide the year.
    """
    found = _TEXT.match(text)
    if found is None:
        raise InvalidInterval(_("use 1m, 15m, 1h, 1d, 1w or 1mo"))
    interval = CalendarInterval(int(found[1]), found[2])
    if interval.unit in _MINUTES:
        if 24 * 60 % (interval.number * _MINUTES[interval.unit]):
            raise InvalidInterval(_("minutes and hours must divide the day: use 1m, 5m, 15m, 30m, 1h, 2h, 6h or 12h"))
    elif interval.number > _MAX_NUMBER[interval.unit]:
        raise InvalidInterval(_("use at most 366d, 52w or 12mo"))
    elif interval.unit == "mo" and 12 % interval.number:
        raise InvalidInterval(_("months must divide the year: use 1mo, 2mo, 3mo, 4mo, 6mo or 12mo"))
    return interval


def interval_edges(
    interval: CalendarInterval, zone: ZoneInfo, start: datetime, stop: datetime, most: int
) -> list[datetime]:
    """Return the beginnings of the intervals that cover start ≤ time < stop, and the end of the last: UTC, ascending.

    The first is at or before `start`, the last at or after `stop`; there is one edge more than intervals. An hour that
    occurs twice in a time zone is two intervals. Raises TooManyBuckets for more than `most` intervals.
    """
    found: list[datetime] = []
    for edge in _from_before(interval, zone, start):
        if edge <= start:
            found = [edge]
            continue
        if edge > found[-1]:
            found.append(edge)
        if edge >= stop:
            return found
        if len(found) > most:
            raise TooManyBuckets
    raise AssertionError("the calendar is endless")


def suggested_interval(span: timedelta, most: int) -> str:
    """Return the shortest usual interval of which a span has at most `most`."""
    for text in ("1m", "5m", "10m", "15m", "30m", "1h", "2h", "3h", "6h", "12h", "1d", "1w", "1mo", "3mo"):
        if span / parse_interval(text).shortest + 2 <= most:
            return text
    return "12mo"


def _from_before(interval: CalendarInterval, zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    """Endless: the interval's edges, from one that is before `start` on."""
    day = (start.astimezone(zone) - DAY).date()
    if interval.unit in _MINUTES:
        step = interval.number * _MINUTES[interval.unit]
        while True:
            yield from _within_day(day, step, zone)
            day += DAY
    elif interval.unit == "mo":
        month = (day.year * 12 + day.month - 1) // interval.number * interval.number
        while True:
            yield _instant(date(month // 12, month % 12 + 1, 1), 0, zone)
            month += interval.number
    else:
        days = interval.number * (7 if interval.unit == "w" else 1)
        ordinal = day.toordinal()
        ordinal -= (ordinal - _MONDAY) % days
        while True:
            yield _instant(date.fromordinal(ordinal), 0, zone)
            ordinal += days


def _within_day(day: date, step: int, zone: ZoneInfo) -> list[datetime]:
    """The instants at which the day's clocks show a multiple of `step` minutes; ascending.

    A time that the clocks leave out is the moment at which they are set; one that they show twice is two instants.
    """
    midnight, following = _instant(day, 0, zone), _instant(day + DAY, 0, zone)
    if following - midnight == DAY and _instant(day, 12 * 60, zone) - midnight == DAY / 2:
        return [midnight + minute * MINUTE for minute in range(0, 24 * 60, step)]
    shown = {_instant(day, minute, zone, fold) for minute in range(0, 24 * 60, step) for fold in (0, 1)}
    return sorted(instant for instant in shown if midnight <= instant < following)


def _instant(day: date, minute: int, zone: ZoneInfo, fold: int = 0) -> datetime:
    wall = datetime.combine(day, time(minute // 60, minute % 60, fold=fold))
    instant = wall.replace(tzinfo=zone).astimezone(UTC)
    back = instant.astimezone(zone).replace(tzinfo=None)
    if back != wall.replace(fold=0):
        # Left out: by the offset before, it is after the moment at which the clocks are set by just the gap's part.
        return _gap_end(wall, zone)
    return instant


def _gap_end(wall: datetime, zone: ZoneInfo) -> datetime:
    """The moment at which the clocks are set forward over a time of day."""
    before = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    after = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    # fold=0 reads the time by the offset before the gap, fold=1 by the one after: the moment is between the two.
    low, high = min(before, after), max(before, after)
    offset = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)
