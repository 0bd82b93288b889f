"""Reasons for which a response about a range of time may be incomplete, as far as the platform knows.

Later messages of a device and refused messages are not reasons.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _

from telemetry.models import Quarantined, Reason, RetentionSettings, RollupState
from telemetry.services.rollups.partitions import month_before, month_bounds


class PartialCode(StrEnum):
    """Codes of the reasons for an incomplete response."""

    MORE = "more"
    RUNNING = "running"
    RETENTION = "retention"
    PARKED = "deferred"


@dataclass(frozen=True, slots=True)
class PartialReason:
    """A reason for which readings may be missing, and its description."""

    code: PartialCode
    detail: str


def partial_reasons(
    devices: Sequence[int] | None,
    start: datetime | None,
    stop: datetime | None,
    *,
    raw_from: datetime | None = None,
    rolled_from: datetime | None = None,
) -> list[PartialReason]:
    """Return why readings with start ≤ time < stop of the devices (None: all) may be missing; at most three queries.

    `raw_from`, `rolled_from`: the earliest time that the response read from readings, and from rollups.
    """
    found = []
    now = timezone.now()
    if stop is None or stop > now:
        found.append(PartialReason(PartialCode.RUNNING, _("The range has not ended; more readings may arrive.")))
    found += _dropped_reasons(raw_from, rolled_from, now)
    deferred = Quarantined.objects.filter(reason=Reason.KEY_UNAVAILABLE)
    if devices is not None:
        deferred = deferred.filter(device__in=devices)
    if start is not None:
        # A device's clock may be so much ahead of ours.
        deferred = deferred.filter(last_received_at__gte=start - timedelta(seconds=settings.INGEST_FUTURE_SECONDS))
    if deferred.exists():
        found.append(
            PartialReason(
                PartialCode.PARKED,
                _("Messages are deferred because device keys are unavailable; they are processed automatically later."),
            )
        )
    return found


def next_page_reason() -> PartialReason:
    """Return the reason that there is a next page."""
    return PartialReason(PartialCode.MORE, _("More results are available at 'next'."))


def completeness_data(warnings: Sequence[PartialReason]) -> dict[str, Any]:
    """Return the members of an answer that state whether it is complete."""
    return {"complete": not warnings, "warnings": [asdict(warning) for warning in warnings]}


def _dropped_reasons(raw_from: datetime | None, rolled_from: datetime | None, now: datetime) -> list[PartialReason]:
    kept = RollupState.objects.values_list("readings_from", flat=True).first()
    if kept is not None and raw_from is not None and raw_from < kept:
        description = _("Readings before %(time)s were deleted by retention.") % {"time": _time_text(kept)}
        return [PartialReason(PartialCode.RETENTION, description)]
    if kept is not None and rolled_from is not None and rolled_from < kept:
        # Rollups outlive the readings.
        months = RetentionSettings.current().rollups_months
        first = None if months is None else month_bounds(month_before(now, months))[0]
        if first is not None and rolled_from < first:
            description = _("Hourly and daily values before %(time)s were deleted by retention.") % {
                "time": _time_text(first)
            }
            return [PartialReason(PartialCode.RETENTION, description)]
    return []


def _time_text(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
