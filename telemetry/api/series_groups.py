"""Groups of series: by device, place, tag, hardware model, component and component type."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail, ValidationError

from devices.models import Component, Device, Metric
from telemetry.models import Series
from tenants.infrastructure.error_codes import ErrorCode

from .device_selection import place_paths, refuse_unknown_names, refuse_unknown_types, select_devices
from .series_selection import series_rows

MAX_SERIES = 10_000
MAX_GROUPS = 1000


class GroupBy(StrEnum):
    """What the series of one group have in common, beside the metric."""

    DEVICE = "device"
    PLACE = "place"
    TAG = "tag"
    HARDWARE_MODEL = "hardware_model"
    COMPONENT = "component"
    COMPONENT_TYPE = "component_type"


@dataclass(frozen=True, slots=True)
class SeriesGroup:
    """Series of one metric; `key` has the member of each GroupBy, None where a series has none."""

    metric: str
    value_type: str
    key: dict[str, Any]
    series: list[Series] = field(default_factory=list)

    @property
    def device_count(self) -> int:
        """Return the number of devices in the group."""
        return len({one.device_id for one in self.series})


@dataclass(frozen=True, slots=True)
class GroupedSeries:
    """The groups in order of metric and key, and the ids of the selected devices; None for all of the tenant."""

    device_ids: list[int] | None
    groups: list[SeriesGroup]


def group_series(request: Any, wanted: dict[str, Any]) -> GroupedSeries:
    """Return the groups of the series of numbers and booleans that the parameters select.

    Raises NotFound for unknown names, and ValidationError for too many series or groups.
    """
    devices = select_devices(request, wanted)
    refuse_unknown_types(wanted.get("component_type", ()))
    ids = None if devices is None else [device.pk for device in devices]
    series = _selected(wanted, ids)
    names = set(wanted["metric"]) - {one.metric for one in series} or (
        set(wanted.get("component", ())) - {one.component for one in series}
    )
    if names:
        refuse_unknown_names(devices, wanted.get("component", ()), wanted["metric"])
    keys = _GroupKeys(request, wanted, series)
    groups: dict[tuple[Any, ...], SeriesGroup] = {}
    for one in series:
        for key in keys.groups_of(one):
            place = (one.metric, one.value_type, *key)
            if place not in groups:
                groups[place] = SeriesGroup(one.metric, one.value_type, dict(zip(keys.names, key, strict=True)))
            groups[place].series.append(one)
    if len(groups) > MAX_GROUPS:
        values = {"number": len(groups), "most": MAX_GROUPS}
        text = _("The request selects %(number)d groups; at most %(most)d are allowed. Select fewer devices.")
        raise ValidationError({"group_by": ErrorDetail(text % values, ErrorCode.TOO_MANY_RESULTS)})
    ordered = sorted(groups, key=lambda place: [(part is None, str(part)) for part in place])
    return GroupedSeries(ids, [groups[place] for place in ordered])


def _selected(wanted: dict[str, Any], ids: Sequence[int] | None) -> list[Series]:
    rows = Series.objects.exclude(value_type=Metric.ValueType.TEXT)
    rows = series_rows(rows if ids is None else rows.filter(device__in=ids), wanted)
    found = list(rows.order_by("pk")[: MAX_SERIES + 1])
    if len(found) > MAX_SERIES:
        values = {"number": rows.count(), "most": MAX_SERIES}
        text = _("The request selects %(number)d series; at most %(most)d are allowed. Name fewer devices or metrics.")
        raise ValidationError({"device": ErrorDetail(text % values, ErrorCode.TOO_MANY_RESULTS)})
    return found


@dataclass(frozen=True, slots=True)
class _DeviceKeys:
    """What devices are grouped by."""

    uuid: UUID
    place: str | None
    path: str | None
    tags: list[str]
    hardware_model: int | None


class _GroupKeys:
    """The keys of series: each belongs to the groups of all combinations of its members."""

    def __init__(self, request: Any, wanted: dict[str, Any], series: Sequence[Series]) -> None:
        self.names: list[str] = list(dict.fromkeys(wanted.get("group_by", ())))
        ids = list({one.device_id for one in series})
        self._devices: dict[int, _DeviceKeys] = {}
        if set(self.names) - {GroupBy.COMPONENT, GroupBy.COMPONENT_TYPE}:
            columns = ("pk", "uuid", "place__key", "place__path", "tags", "hardware_model_id")
            rows = Device.objects.filter(pk__in=ids).order_by().values_list(*columns)
            self._devices = {pk: _DeviceKeys(*values) for pk, *values in rows}
        self._types: dict[tuple[int, str], str] = {}
        if GroupBy.COMPONENT_TYPE in self.names:
            parts = Component.objects.filter(device__in=ids).order_by()
            for pk, key, kind in parts.values_list("device_id", "key", "component_type__key"):
                self._types[pk, key] = kind
        by_place = GroupBy.PLACE in self.names and "place" in wanted
        self._places = place_paths(request, wanted["place"]) if by_place else None

    def groups_of(self, one: Series) -> Iterable[tuple[Any, ...]]:
        """Return the keys of the groups of a series."""
        return product(*(self._members(name, one) for name in self.names))

    def _members(self, name: str, one: Series) -> Sequence[Any]:
        if name == GroupBy.COMPONENT:
            return [one.component]
        if name == GroupBy.COMPONENT_TYPE:
            return [self._types.get((one.device_id, one.component))]
        device = self._devices[one.device_id]
        if name == GroupBy.DEVICE:
            return [str(device.uuid)]
        if name == GroupBy.TAG:
            return device.tags or [None]
        if name == GroupBy.HARDWARE_MODEL:
            return [device.hardware_model]
        return self._places_of(device)

    def _places_of(self, device: _DeviceKeys) -> Sequence[str | None]:
        """Return the device's own place; where places are requested, those of them that contain it."""
        if self._places is None:
            return [device.place]
        path = f"{device.path}/"
        return [key for key, outer in self._places.items() if path.startswith(f"{outer}/")]
