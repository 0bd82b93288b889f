"""The status changes of all devices in the order of their publication."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Min
from django.utils import timezone

from devices.models import StatusChange
from devices.services.notifications.status_feed import last_position

from .change_positions import Generations, restarted


@dataclass(frozen=True, slots=True)
class StatusChangesPage:
    """Changes, and the token of the position behind them. `behind_seconds`: age of the oldest that is not published."""

    rows: list[StatusChange]
    end: list[Any]
    has_more: bool
    behind_seconds: float
    is_whole: bool = True


def status_changes_page(
    devices: Sequence[int] | None = None, *, after: Sequence[Any] | None = None, newest: bool = False, limit: int
) -> StatusChangesPage:
    """Return at most `limit` changes after the position of a token, or from the beginning; with `newest` none.

    Raises PositionLost for a position that this database does not have.
    """
    generations, last = Generations(), last_position()
    begin = last if after is None and newest else 0 if after is None else _position_of(generations, after, last)
    rows = StatusChange.objects.filter(position__gt=begin, position__lte=last).select_related("device")
    if devices is not None:
        rows = rows.filter(device_id__in=devices)
    found = list(rows.order_by("position")[: limit + 1])
    page = found[:limit]
    end = page[-1].position if len(found) > limit else last
    name = str(generations.rows[-1].name) if generations.rows else ""
    return StatusChangesPage(page, [name, end], len(found) > limit, _behind_seconds())


def _position_of(generations: Generations, token: Sequence[Any], last: int) -> int:
    """Return the position of a token, which must not be later than its generation."""
    name, position = token
    row = generations.find(name)
    following = [one for one in generations.rows if row is None or one.pk > row.pk]
    if position > (following[0].status_position if following else last):
        raise restarted()
    return int(position)


def _behind_seconds() -> float:
    oldest: datetime | None = StatusChange.objects.filter(position=None).aggregate(at=Min("at"))["at"]
    return 0.0 if oldest is None else max(0.0, (timezone.now() - oldest).total_seconds())
