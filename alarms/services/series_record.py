"""The stored readings and recorded changes of one series, as the evaluation reads them."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from django.db.models import Q, QuerySet

from alarms.domain.evaluation import (
    ChangeCause,
    EndByUser,
    EpisodeChange,
    EpisodeState,
    Event,
    EventPosition,
    Sample,
    SeriesState,
)
from alarms.domain.revision import StoredChange
from alarms.domain.rules import RuleVersion
from alarms.models import AlarmTransition, EpisodeEnd
from telemetry.models import Series
from telemetry.services.queries.readings import ReadingPosition, readings
from telemetry.services.work_lock import work_state

from .rule_set import WatchedSeries

_PAGE = 10_000
_INSTANT = timedelta(microseconds=1)


class ReadingsRemoved(Exception):
    """Retention has removed readings that an evaluation of the past would need."""


_FIRST_WINDOW = timedelta(hours=1)


class DatabaseRecord:
    """The record of a series in the current tenant's schema; see `alarms.domain.revision.SeriesRecord`."""

    def __init__(self, watched: WatchedSeries) -> None:
        self._watched = watched

    def last_change_before(self, position: EventPosition) -> StoredChange | None:
        """Return the last recorded change before the position."""
        at, rank, value = position
        earlier = Q(at__lt=at) | Q(at=at, rank__lt=rank) | Q(at=at, rank=rank, rank_value__lt=value)
        row = self._changes().filter(earlier).order_by("-at", "-rank", "-rank_value", "-id").first()
        return None if row is None else stored_change(row)

    def changes_after(self, position: EventPosition) -> list[StoredChange]:
        """Return the recorded changes after the position, in their order."""
        at, rank, value = position
        later = Q(at__gt=at) | Q(at=at, rank__gt=rank) | Q(at=at, rank=rank, rank_value__gt=value)
        return [stored_change(row) for row in self._changes().filter(later).order_by("at", "rank", "rank_value", "id")]

    def events(self, after: EventPosition, until: EventPosition) -> list[Event]:
        """Return the readings and ends by hand after a position up to another, in their order.

        Raises ReadingsRemoved where retention has removed some of them.
        """
        readings_from = work_state().readings_from
        if readings_from is not None and after.at < readings_from:
            raise ReadingsRemoved
        ends = EpisodeEnd.objects.filter(series=self._watched.pk, at__gte=after.at, at__lte=until.at)
        found: list[Event] = [EndByUser(one.at, one.is_final) for one in ends]
        found += self._samples(after, until)
        return sorted((one for one in found if after < one.position <= until), key=lambda one: one.position)

    def last_sample(self, after: EventPosition, before: EventPosition, version: RuleVersion | None) -> Sample | None:
        """Return the last reading between two positions; with a version, the last that raises none of its levels."""
        levels = version.levels if version is not None else ()
        window, end = _FIRST_WINDOW, before
        while end > after:
            begin = max(after, EventPosition(end.at - window, 0))
            fitting = [
                one
                for one in self._samples(begin, end)
                if begin < one.position < before and not any(level.raises(one.value) for level in levels)
            ]
            if fitting:
                return max(fitting, key=lambda one: one.position)
            end, window = begin, 2 * window
        return None

    def _changes(self) -> QuerySet[AlarmTransition]:
        return AlarmTransition.objects.filter(series=self._watched.pk, superseded_at__isnull=True, after__isnull=False)

    def _samples(self, after: EventPosition, until: EventPosition) -> Iterator[Sample]:
        series = [Series(pk=pk, device_id=self._watched.device, value_type="number") for pk in self._watched.ids]
        position: ReadingPosition | None = None
        while True:
            rows = readings(series, start=after.at, stop=until.at + _INSTANT, after=position, limit=_PAGE)
            yield from _distinct(Sample(row.time, float(row.value)) for row in rows)
            if len(rows) < _PAGE:
                return
            position = ReadingPosition(rows[-1].time, rows[-1].series, rows[-1].key)


def _distinct(samples: Iterable[Sample]) -> Iterable[Sample]:
    return dict.fromkeys(samples)


def stored_change(row: AlarmTransition) -> StoredChange:
    """Return the change of a row that the evaluation made."""
    change = EpisodeChange(
        position=EventPosition(row.at, row.rank, row.rank_value),
        from_state=EpisodeState(row.from_state),
        to_state=EpisodeState(row.to_state),
        from_severity=row.from_severity,
        severity=row.severity,
        cause=ChangeCause(row.cause),
        version=row.rule_version,
        since=row.since,
        sample=None if row.reading_at is None or row.value is None else Sample(row.reading_at, row.value),
        after=SeriesState.from_stored(row.after or {}),
    )
    return StoredChange(row.pk, row.episode_id, change)
