"""Whether a component reports: FRESH, STALE or NEVER, by its newest reading and its expected interval.

A device can be ONLINE while one of its sensors is STALE. A reading counts by its own time: one that comes late is
as old as it says. The readings come from the hook `newest_readings`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices import hooks
from devices.models import Component
from devices.services.presence.timeouts import interval_of

# After two missed reports a component is stale.
MISSED_REPORTS = 2


class Freshness(models.TextChoices):
    FRESH = "FRESH", _("fresh")
    STALE = "STALE", _("stale")
    NEVER = "NEVER", _("never reported")


@dataclass(frozen=True, slots=True)
class Report:
    """When a component last reported, how often it is expected to (seconds), and what follows from that."""

    freshness: Freshness
    last_reading_at: datetime | None
    interval: int


def judge(last_reading_at: datetime | None, interval: int, now: datetime) -> Freshness:
    """FRESH where the newest reading is at most two expected intervals (seconds) old."""
    if last_reading_at is None:
        return Freshness.NEVER
    fresh = now - last_reading_at <= timedelta(seconds=MISSED_REPORTS * interval)
    return Freshness.FRESH if fresh else Freshness.STALE


def reports(components: Iterable[Component], now: datetime) -> dict[int, Report]:
    """By component id; one query for all of them. Their types are read where they are not loaded yet."""
    listed = list(components)
    newest = hooks.newest_readings.first()({component.device_id for component in listed}) if listed else {}
    return {component.pk: _report(component, newest, now) for component in listed}


def _report(component: Component, newest: dict[tuple[int, str], datetime], now: datetime) -> Report:
    last, interval = newest.get((component.device_id, component.key)), interval_of(component)
    return Report(judge(last, interval, now), last, interval)
