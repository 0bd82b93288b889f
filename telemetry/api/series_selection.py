"""The series and the range of time that a request selects, and what every answer about series says."""

import datetime
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail, ValidationError

from devices.models import Component, Device
from telemetry.models import Series
from telemetry.services.queries import calendar_intervals
from telemetry.services.queries.query_budget import QueryTooExpensive, time_limited_queries
from tenants.infrastructure.error_codes import ErrorCode

from .device_selection import refuse_unknown_names, refuse_unknown_types, select_devices

# The series of one answer; intervals of all its series together, or points of all its lines together.
MAX_SERIES = 100
MAX_RESULTS = 25_000


@dataclass(frozen=True)
class SelectedSeries:
    """The selected series, by device in the order of the request, component, metric and id."""

    devices: Sequence[Device]
    series: Sequence[Series]

    def device_of(self, one: Series) -> str:
        """Return the UUID of a series' device."""
        return str(self.uuids[one.device_id])

    @cached_property
    def uuids(self) -> dict[int, UUID]:
        """Return device id → UUID."""
        return {device.pk: device.uuid for device in self.devices}


def select_series(request: Any, wanted: dict[str, Any], most: int | None = None) -> SelectedSeries:
    """Return the series that the parameters select; an unmeasured metric has none.

    Raises NotFound for names that none of the devices has, with those that there are, and ValidationError for more
    than `most` series.
    """
    devices = select_devices(request, wanted) or []
    refuse_unknown_types(wanted.get("component_type", ()))
    rows = series_rows(Series.objects.filter(device__in=[device.pk for device in devices]), wanted)
    found = list(rows.order_by() if most is None else rows.order_by()[: most + 1])
    if most is not None and len(found) > most:
        values = {"number": rows.count(), "most": most}
        text = _("The request selects %(number)d series; at most %(most)d are allowed. Name fewer devices or metrics.")
        raise ValidationError({"device": ErrorDetail(text % values, ErrorCode.TOO_MANY_RESULTS)})
    components, metrics = set(wanted.get("component", ())), set(wanted.get("metric", ()))
    if not (components <= {one.component for one in found} and metrics <= {one.metric for one in found}):
        refuse_unknown_names(devices, wanted.get("component", ()), wanted.get("metric", ()))
    order = {device.pk: number for number, device in enumerate(devices)}
    found.sort(key=lambda one: (order[one.device_id], one.component, one.metric, one.pk))
    return SelectedSeries(devices, found)


def series_rows(rows: QuerySet[Series], wanted: dict[str, Any]) -> QuerySet[Series]:
    """Return the series of the components, component types and metrics that are named; of all unless any is."""
    if "component" in wanted:
        rows = rows.filter(component__in=wanted["component"])
    if "metric" in wanted:
        rows = rows.filter(metric__in=wanted["metric"])
    if "component_type" in wanted:
        parts = Component.objects.filter(device=OuterRef("device"), key=OuterRef("component"))
        rows = rows.filter(Exists(parts.filter(component_type__key__in=wanted["component_type"])))
    return rows


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The part of a range that can hold readings: start ≤ time < stop. `requested_stop` is the request's `to`."""

    start: datetime.datetime
    stop: datetime.datetime
    requested_stop: datetime.datetime | None


def time_range(wanted: dict[str, Any]) -> TimeRange:
    """Return the range of a request. Raises ValidationError for one that is all in the future."""
    now = timezone.now()
    latest = now + timedelta(seconds=settings.INGEST_FUTURE_SECONDS)
    start = max(wanted.get("from", calendar_intervals.EARLIEST), calendar_intervals.EARLIEST)
    stop = min(wanted.get("to", now), latest)
    if start >= stop:
        raise ValidationError({"from": ErrorDetail(_("'from' must not be in the future."), ErrorCode.INVALID_RANGE)})
    return TimeRange(start, stop, wanted.get("to", stop))


def requested_edges(wanted: dict[str, Any], requested: TimeRange, count: int, refusal: str) -> list[datetime.datetime]:
    """Return the edges of the requested intervals.

    Raises ValidationError with the refusal if one answer cannot contain them `count` times.
    """
    most = MAX_RESULTS // max(count, 1)
    try:
        return calendar_intervals.interval_edges(
            wanted["interval"], wanted["timezone"], requested.start, requested.stop, most
        )
    except calendar_intervals.TooManyBuckets:
        values = {
            "interval": wanted["interval"],
            "most": most,
            "count": count,
            "longer": calendar_intervals.suggested_interval(requested.stop - requested.start, most),
        }
        raise ValidationError({"interval": ErrorDetail(refusal % values, ErrorCode.TOO_MANY_RESULTS)}) from None


@contextmanager
def query_budget(parameter: str) -> Iterator[None]:
    """Bound the queries of the block. Raises ValidationError that names the parameter to change."""
    try:
        with time_limited_queries():
            yield
    except QueryTooExpensive:
        refusal = _("The range contains too many readings to process in time. Use a shorter range.")
        raise ValidationError({parameter: ErrorDetail(refusal, ErrorCode.TOO_EXPENSIVE)}) from None


def series_to_show(series: Iterable[Series], found: set[int]) -> list[Series]:
    """Return the series with readings in the range, and of a metric without any the series of its newest unit."""
    newest: dict[tuple[int, str, str], Series] = {}
    held = set()
    for one in series:
        key = one.device_id, one.component, one.metric
        newest[key] = one
        if one.pk in found:
            held.add(key)
    bare = {one.pk for key, one in newest.items() if key not in held}
    return [one for one in series if one.pk in found or one.pk in bare]


def series_data(selected: SelectedSeries, one: Series, shown: Iterable[Series], unit: str) -> dict[str, Any]:
    """Return what SeriesSerializer describes of one of the series that are shown, with its numbers in `unit`."""
    key = one.device_id, one.component, one.metric
    others = [o for o in shown if o.pk != one.pk and (o.device_id, o.component, o.metric) == key]
    return {
        "device": selected.device_of(one),
        "component": one.component,
        "metric": one.metric,
        "unit": unit or None,
        "value_type": one.value_type,
        "other_units": [other.unit or None for other in others],
    }
