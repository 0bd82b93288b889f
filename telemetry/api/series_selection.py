"""The series and the range of time that a request selects, and what every answer about series says."""

import datetime
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail, NotFound, ValidationError

from devices.api.visibility import selector_of, visible_devices
from devices.models import Component, Device, Metric
from telemetry.models import Series
from telemetry.services.queries import calendar_intervals, readings
from telemetry.services.queries.completeness import PartialReason
from telemetry.services.queries.query_budget import QueryTooExpensive, time_limited_queries
from tenants.infrastructure.error_codes import ErrorCode

# The series of one answer; intervals of all its series together, or points of all its lines together.
MAX_SERIES = 100
MAX_RESULTS = 25_000


@dataclass(frozen=True, slots=True)
class SelectedSeries:
    """The selected series, by device in the order of the request, component, metric and id."""

    devices: Sequence[Device]
    series: Sequence[Series]

    def device_of(self, one: Series) -> str:
        """Return the UUID of a series' device."""
        return next(str(device.uuid) for device in self.devices if device.pk == one.device_id)


def select_series(request: Any, wanted: dict[str, Any], most: int | None = None) -> SelectedSeries:
    """Return the series of `device`, `component` and `metric`, in at most three queries; an unmeasured metric has none.

    Raises NotFound for names that none of the devices has, with those that there are, and ValidationError for more
    than `most` series.
    """
    devices = _devices(request, wanted["device"])
    known = list(Series.objects.filter(device__in=[device.pk for device in devices.values()]))
    components, metrics = wanted.get("component", ()), wanted.get("metric", ())
    found = [
        one
        for one in known
        if (not components or one.component in components) and (not metrics or one.metric in metrics)
    ]
    if not _names(found, components, metrics):
        _refuse_unknown(list(devices.values()), known, components, metrics)
    if most is not None and len(found) > most:
        values = {"number": len(found), "most": most}
        text = _("The request selects %(number)d series; at most %(most)d are allowed. Name fewer devices or metrics.")
        raise ValidationError({"device": ErrorDetail(text % values, ErrorCode.TOO_MANY_RESULTS)})
    order = {device.pk: number for number, device in enumerate(devices.values())}
    found.sort(key=lambda one: (order[one.device_id], one.component, one.metric, one.pk))
    return SelectedSeries(list(devices.values()), found)


def devices_by_uuid(request: Any, uuids: Iterable[UUID]) -> list[Device]:
    """Return the devices in this order. Raises NotFound for one that the client cannot see."""
    return list(_devices(request, uuids).values())


def requested_devices(request: Any, wanted: dict[str, Any]) -> list[Device] | None:
    """Return the requested devices, or all that the client can see; None for all of the tenant."""
    if "device" in wanted:
        return devices_by_uuid(request, wanted["device"])
    return list(visible_devices(request).order_by()) if selector_of(request) else None


def device_ids(request: Any, wanted: dict[str, Any]) -> list[int] | None:
    """Return the ids of `requested_devices`."""
    devices = requested_devices(request, wanted)
    return None if devices is None else [device.pk for device in devices]


def series_of_metric(request: Any, uuid: UUID, component: str, metric: str) -> tuple[Device, list[Series]]:
    """Return the device and the series of its metric, or none yet. Raises NotFound with the names that there are."""
    device = _devices(request, [uuid])[uuid]
    found = readings.series_of(device, component, metric)
    if not found:
        _refuse_unknown([device], Series.objects.filter(device=device), [component], [metric])
    return device, found


def refuse_unknown_names(devices: Sequence[Device] | None, component: str | None, metric: str | None) -> None:
    """Raise NotFound for a name that none of the devices has; None: of the tenant's devices."""
    components, metrics = [component] if component else [], [metric] if metric else []
    if devices is not None and (components or metrics):
        _refuse_unknown(devices, Series.objects.filter(device__in=devices), components, metrics)
    elif devices is None:
        _refuse_unknown_in_tenant(component, metric)


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


def series_data(selected: SelectedSeries, one: Series, shown: Iterable[Series]) -> dict[str, Any]:
    """Return what SeriesSerializer describes of one of the series that are shown."""
    key = one.device_id, one.component, one.metric
    others = [o for o in shown if o.pk != one.pk and (o.device_id, o.component, o.metric) == key]
    return {
        "device": selected.device_of(one),
        "component": one.component,
        "metric": one.metric,
        "unit": one.unit or None,
        "value_type": one.value_type,
        "other_units": [other.unit or None for other in others],
    }


def completeness_data(warnings: Sequence[PartialReason]) -> dict[str, Any]:
    """Return what CompleteSerializer describes."""
    return {"complete": not warnings, "warnings": [asdict(warning) for warning in warnings]}


def _devices(request: Any, uuids: Iterable[UUID]) -> dict[UUID, Device]:
    wanted = list(dict.fromkeys(uuids))
    found = {device.uuid: device for device in visible_devices(request).filter(uuid__in=wanted).order_by()}
    for uuid in wanted:
        if uuid not in found:
            raise NotFound(_("There is no device with the UUID %(uuid)s. devices/ lists the devices.") % {"uuid": uuid})
    return {uuid: found[uuid] for uuid in wanted}


def _names(found: Iterable[Series], components: Collection[str], metrics: Collection[str]) -> bool:
    """Return whether each name belongs to one of the series."""
    held = list(found)
    return set(components) <= {one.component for one in held} and set(metrics) <= {one.metric for one in held}


def _refuse_unknown(
    devices: Sequence[Device], known: Iterable[Series], components: Collection[str], metrics: Collection[str]
) -> None:
    types = dict(Component.objects.filter(device__in=devices).values_list("key", "component_type_id"))
    measured = {(one.component, one.metric) for one in known}
    there = types.keys() | {component for component, _metric in measured}
    names = ", ".join(device.name for device in devices)
    for component in components:
        if component not in there:
            values = {"device": names, "component": component, "known": _listed(there)}
            raise NotFound(_("%(device)s has no component %(component)r. It has: %(known)s.") % values)
    chosen = set(components) or there
    measurable = {metric for component, metric in measured if component in chosen}
    of_types = [kind for component, kind in types.items() if component in chosen]
    measurable |= set(Metric.objects.filter(component_type_id__in=of_types).values_list("key", flat=True))
    for metric in metrics:
        if metric not in measurable:
            values = {"component": _listed(chosen), "metric": metric, "known": _listed(measurable)}
            raise NotFound(_("%(component)s has no metric %(metric)r. It has: %(known)s.") % values)


def _refuse_unknown_in_tenant(component: str | None, metric: str | None) -> None:
    of_component = (Component.objects.filter(key=component), Series.objects.filter(component=component))
    if component and not any(rows.exists() for rows in of_component):
        text = _("No device has a component %(component)r. components/ lists the components.")
        raise NotFound(text % {"component": component})
    of_metric = (Metric.objects.filter(key=metric), Series.objects.filter(metric=metric))
    if metric and not any(rows.exists() for rows in of_metric):
        raise NotFound(_("There is no metric %(metric)r. metrics/ lists the metrics.") % {"metric": metric})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or _("none")
