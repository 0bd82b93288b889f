"""Freshness of components: FRESH, STALE or NEVER, by the newest reading and the expected interval.

A device can be ONLINE while one of its sensors is STALE. A reading counts by its own time, not by its arrival.
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
class ComponentReport:
    """The newest reading's time of a component, its expected interval (seconds), and its freshness."""

    freshness: Freshness
    last_reading_at: datetime | None
    interval: int


def freshness_of(last_reading_at: datetime | None, interval: int, now: datetime) -> Freshness:
    """Return FRESH if the newest reading is at most two expected intervals (seconds) old."""
    if last_reading_at is None:
        return Freshness.NEVER
    fresh = now - last_reading_at <= timedelta(seconds=MISSED_REPORTS * interval)
    return Freshness.FRESH if fresh else Freshness.STALE


def component_reports(components: Iterable[Component], now: datetime) -> dict[int, ComponentReport]:
    """Return the reports by component id, with one query for all. Component types are loaded if they are not yet."""
    listed = list(components)
    newest = hooks.newest_readings.first()({component.device_id for component in listed}) if listed else {}
    return {component.pk: _report(component, newest, now) for component in listed}


def _report(component: Component, newest: dict[tuple[int, str], datetime], now: datetime) -> ComponentReport:
    last, interval = newest.get((component.device_id, component.key)), interval_of(component)
    return ComponentReport(freshness_of(last, interval, now), last, interval)
