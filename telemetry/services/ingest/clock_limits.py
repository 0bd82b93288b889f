"""The limits of the devices' clocks: from the settings, and the day on which the platform was set up."""

from datetime import UTC, date, datetime, time, timedelta

from django.conf import settings
from django.db import connection

from telemetry.services.pipeline.contract import ClockTolerance
from telemetry.services.rollups.partitions import KEPT_MONTHS

_MONTH = timedelta(days=31)


def clock_tolerance() -> ClockTolerance:
    """Return the tolerated clocks. One query without `INGEST_EARLIEST_DATE`."""
    return ClockTolerance(
        live=timedelta(seconds=settings.INGEST_LIVE_SECONDS),
        future=timedelta(seconds=settings.INGEST_FUTURE_SECONDS),
        earliest=datetime.combine(settings.INGEST_EARLIEST_DATE or _default_date(), time(), UTC),
    )


def _default_date() -> date:
    """Return the day of the set-up, less the months that have partitions of their own."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT min(applied) FROM public.django_migrations")
        (set_up_at,) = cursor.fetchone()
    return ((set_up_at or datetime.now(UTC)) - KEPT_MONTHS * _MONTH).date()
