"""The timeline of a device's states as SVG without scripts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from devices.models import MaintenanceWindow
from devices.models.presence import Status
from devices.services.presence import availability, descriptions

# More segments cannot be distinguished.
_SLOTS = 360
# The minimum width of an outage in percent, so that a short one is visible.
_NARROWEST = 0.3
# Labels closer to the edge than this are omitted: percent of the width.
_MARGIN = 4


@dataclass(frozen=True, slots=True)
class Range:
    """A range of the timeline: its length, and the distance of its labels."""

    key: str
    length: timedelta
    step: timedelta
    label: str  # of a tick, for strftime


RANGES = {
    "24h": Range("24h", timedelta(hours=24), timedelta(hours=6), "%H:%M"),
    "30d": Range("30d", timedelta(days=30), timedelta(days=5), "%m-%d"),
}


def bar(
    segments: Sequence[availability.Segment], windows: Iterable[MaintenanceWindow], shown: Range, start: datetime
) -> dict[str, Any]:
    """Return the context of `devices/admin/timeline.html`. Positions and widths are percent of the width."""
    share = availability.seconds_by_status(segments)
    # Outages last: a widened one must not be covered by its neighbour.
    thinned = sorted(availability.downsample(segments, _SLOTS), key=lambda one: one.status in availability.OUTAGE)
    return {
        "range": shown.key,
        "parts": [_part(one, shown, start) for one in thinned],
        "windows": [_window(window, shown, start) for window in windows],
        "ticks": list(_ticks(shown, start)),
        "legend": [
            {"status": status.value, "label": status.label, "share": _percent(share[status], shown)}
            for status in (Status.ONLINE, Status.OFFLINE, Status.TIMEOUT, Status.UNKNOWN)
            if share.get(status)
        ],
    }


def _part(one: availability.Segment, shown: Range, start: datetime) -> dict[str, Any]:
    width = 100 * (one.stop - one.start) / shown.length
    if one.status in availability.OUTAGE:
        width = max(width, _NARROWEST)
    title = _("%(status)s from %(start)s until %(stop)s (%(length)s)") % {
        "status": Status(one.status).label,
        "start": descriptions.format_time(one.start),
        "stop": descriptions.format_time(one.stop),
        "length": descriptions.format_duration(one.seconds),
    }
    left = min(100 * (one.start - start) / shown.length, 100 - width)
    return {"status": one.status, "left": f"{left:.3f}", "width": f"{width:.3f}", "title": title}


def _window(window: MaintenanceWindow, shown: Range, start: datetime) -> dict[str, Any]:
    begin, end = max(window.starts_at, start), min(window.ends_at, start + shown.length)
    title = _("maintenance from %(start)s until %(stop)s") % {
        "start": descriptions.format_time(window.starts_at),
        "stop": descriptions.format_time(window.ends_at),
    }
    return {
        "left": f"{100 * (begin - start) / shown.length:.3f}",
        "width": f"{max(100 * (end - begin) / shown.length, _NARROWEST):.3f}",
        "title": f"{title}: {window.reason}" if window.reason else title,
    }


def _ticks(shown: Range, start: datetime) -> Iterator[dict[str, str]]:
    """Yield a label at each step, counted from midnight of the current time zone."""
    tick = timezone.localtime(start).replace(hour=0, minute=0, second=0, microsecond=0)
    while tick < start + shown.length:
        place = 100 * (tick - start) / shown.length
        if _MARGIN <= place <= 100 - _MARGIN:
            yield {"left": f"{place:.3f}", "label": tick.strftime(shown.label)}
        tick += shown.step


def _percent(seconds: float, shown: Range) -> str:
    percent = 100 * seconds / shown.length.total_seconds()
    return f"{percent:.3g} %" if percent >= 0.1 else "< 0.1 %"
