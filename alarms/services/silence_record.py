"""The stored readings of a component and the recorded changes of its alarms of silence."""

from datetime import datetime, timedelta

from alarms.domain.evaluation import EndByUser, EventPosition
from alarms.domain.revision import StoredChange
from alarms.models import EpisodeEnd
from telemetry.models import Series
from telemetry.services.queries.readings import ReadingPosition, readings
from telemetry.services.work_lock import work_state

from .rule_set import WatchedSeries
from .series_record import DatabaseRecord, ReadingsRemoved

_PAGE = 10_000
_INSTANT = timedelta(microseconds=1)
_FIRST_WINDOW = timedelta(hours=1)
# No reading is older: ingest refuses it.
_EARLIEST = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


class SilenceDatabaseRecord:
    """The record of a component in the current tenant's schema; see `alarms.domain.silence.SilenceRecord`."""

    def __init__(self, watched: WatchedSeries) -> None:
        self._watched = watched
        self._series: list[Series] | None = None

    def reading_before(self, at: datetime) -> datetime | None:
        """Return the time of the last reading before a time; raises ReadingsRemoved where it may be removed."""
        earliest = work_state().readings_from
        if earliest is not None and at < earliest:
            raise ReadingsRemoved
        window, stop, begin = _FIRST_WINDOW, at, earliest or _EARLIEST
        while stop > begin:
            start = max(begin, stop - window)
            found = self.reading_times(start, stop - _INSTANT)
            if found:
                return found[-1]
            stop, window = start, 2 * window
        return None

    def reading_times(self, start: datetime, stop: datetime) -> list[datetime]:
        """Return the times of the readings from a time up to another, both included, in order."""
        found: set[datetime] = set()
        position: ReadingPosition | None = None
        while True:
            rows = readings(self._rows(), start=start, stop=stop + _INSTANT, after=position, limit=_PAGE)
            found.update(row.time for row in rows)
            if len(rows) < _PAGE:
                return sorted(found)
            position = ReadingPosition(rows[-1].time, rows[-1].series, rows[-1].key)

    def reading_after(self, at: datetime) -> datetime | None:
        """Return the time of the first reading after a time."""
        rows = readings(self._rows(), start=at + _INSTANT, limit=1)
        return rows[0].time if rows else None

    def ends(self, after: datetime, until: datetime) -> list[EndByUser]:
        """Return the ends by hand after a time up to another."""
        rows = EpisodeEnd.objects.filter(series=self._watched.pk, at__gt=after, at__lte=until).order_by("at")
        return [EndByUser(one.at, one.is_final) for one in rows]

    def changes_after(self, position: EventPosition) -> list[StoredChange]:
        """Return the recorded changes after the position, in their order."""
        return DatabaseRecord(self._watched).changes_after(position)

    def _rows(self) -> list[Series]:
        if self._series is None:
            self._series = list(Series.objects.filter(pk__in=self._watched.ids))
        return self._series
