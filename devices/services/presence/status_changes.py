"""Queries of status changes: a device's changes, its timeline, its months.

Every function reads the current tenant's schema and returns lists, so that nothing is read after leaving the schema.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from django.db.models import Exists, OuterRef

from devices.models import Device, MaintenanceWindow, StatusChange

from . import availability


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month of a time zone as two instants, the second at most now."""

    name: str  # 2026-11
    start: datetime
    stop: datetime


def list_changes(
    device: Device,
    *,
    start: datetime | None = None,
    stop: datetime | None = None,
    cause: str = "",
    status: str = "",
    before: int | None = None,
    limit: int,
) -> list[StatusChange]:
    """Return at most `limit` changes recorded at start ≤ time < stop, newest first, with ids below `before`.

    `status` filters by the new status.
    """
    given = {"at__gte": start, "at__lt": stop, "cause": cause or None, "to_status": status or None, "id__lt": before}
    rows = StatusChange.objects.filter(
        device=device, **{name: value for name, value in given.items() if value is not None}
    )
    return list(rows.order_by("-id")[:limit])


def newest_changes(device_ids: Collection[int]) -> dict[int, StatusChange]:
    """Return the newest change of each device that has one, in one query with one index probe per device."""
    rows = StatusChange.objects.raw(
        "SELECT c.* FROM unnest(%s::bigint[]) AS d(id) CROSS JOIN LATERAL"
        " (SELECT * FROM devices_statuschange WHERE device_id = d.id ORDER BY id DESC LIMIT 1) AS c",
        [list(device_ids)],
    )
    return {row.device_id: row for row in rows}


def timeline(device: Device, start: datetime, stop: datetime) -> list[availability.Segment]:
    """Return the device's states from start to stop, which must not be after now. Two queries."""
    mine = StatusChange.objects.filter(device=device)
    rows = list(mine.filter(at__gte=start, at__lt=stop).order_by("id"))
    earlier = mine.filter(at__lt=start)
    if rows:
        earlier = earlier.filter(id__lt=rows[0].pk)
    before = earlier.order_by("-id").first()
    status = before.to_status if before else rows[0].from_status if rows else availability.UNKNOWN
    return availability.timeline(rows, status, start, stop)


def maintenance_windows(device: Device, start: datetime, stop: datetime) -> list[MaintenanceWindow]:
    """Return the device's maintenance windows that overlap start to stop, in order."""
    found = MaintenanceWindow.objects.filter(device=device, starts_at__lt=stop, ends_at__gt=start)
    return list(found.order_by("starts_at", "id"))


def monthly_availability(device: Device, months: Sequence[Month]) -> list[availability.Availability]:
    """Return the device's availability in each of the months, with three queries for any number of months."""
    start, stop = min(month.start for month in months), max(month.stop for month in months)
    segments = timeline(device, start, stop)
    excluded = [(window.starts_at, window.ends_at) for window in maintenance_windows(device, start, stop)]
    counted = availability.exclude_windows(segments, excluded)
    return [availability.measure(availability.clip(counted, month.start, month.stop)) for month in months]


def recent_months(year: int, month: int, number: int, zone: ZoneInfo, now: datetime) -> list[Month]:
    """Return the `number` months up to the given one, newest first, in the time zone's calendar, cut at `now`."""
    last = year * 12 + month - 1
    return [_month(*divmod(index, 12), zone, now) for index in range(last, last - number, -1)]


def in_maintenance(now: datetime) -> Exists:
    """Return a query expression: whether a device is in a maintenance window."""
    return Exists(MaintenanceWindow.objects.filter(device=OuterRef("pk"), starts_at__lte=now, ends_at__gt=now))


def _month(year: int, index: int, zone: ZoneInfo, now: datetime) -> Month:
    start = datetime(year, index + 1, 1, tzinfo=zone).astimezone(UTC)
    following = datetime(year + (index == 11), (index + 1) % 12 + 1, 1, tzinfo=zone).astimezone(UTC)
    return Month(f"{year:04}-{index + 1:02}", start, max(start, min(following, now)))
