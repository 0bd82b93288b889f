"""The devices that a request selects, of those that the client can see, and the names of their metrics."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from rest_framework.exceptions import NotFound

from devices.api.visibility import selector_of, visible_devices
from devices.models import Component, ComponentType, Device, HardwareModel, Metric
from devices.models.places import within
from devices.services.visibility import visible_places
from telemetry.models import Series
from telemetry.services.queries import readings

# The parameters that select devices.
SELECTING = ("device", "place", "tag", "hardware_model")
# So many devices are named in an error; of more their number.
_NAMED_DEVICES = 5


def devices_by_uuid(request: Any, uuids: Iterable[UUID]) -> list[Device]:
    """Return the devices in this order. Raises NotFound for one that the client cannot see."""
    wanted = list(dict.fromkeys(uuids))
    rows = visible_devices(request).filter(uuid__in=wanted).only("uuid", "name").order_by()
    found = {device.uuid: device for device in rows}
    for uuid in wanted:
        if uuid not in found:
            raise NotFound(_("There is no device with the UUID %(uuid)s. devices/ lists the devices.") % {"uuid": uuid})
    return [found[uuid] for uuid in wanted]


def select_devices(request: Any, wanted: dict[str, Any]) -> list[Device] | None:
    """Return the devices that all the parameters select; None for all of the tenant.

    Named devices are in the order of the request, others in order of name and id. Raises NotFound for a device, place
    or hardware model that is not there, or that the client cannot see.
    """
    named = devices_by_uuid(request, wanted["device"]) if "device" in wanted else None
    groups = any(name in wanted for name in SELECTING[1:])
    if named is None and not groups and not selector_of(request):
        return None
    rows = _narrowed(request, visible_devices(request), wanted)
    if named is None:
        return list(rows.order_by("name", "pk"))
    if not groups:
        return named
    selected = set(rows.filter(pk__in=[device.pk for device in named]).order_by().values_list("pk", flat=True))
    return [device for device in named if device.pk in selected]


def series_of_metric(request: Any, uuid: UUID, component: str, metric: str) -> tuple[Device, list[Series]]:
    """Return the device and the series of its metric, or none yet. Raises NotFound with the names that there are."""
    (device,) = devices_by_uuid(request, [uuid])
    found = readings.series_of(device, component, metric)
    if not found:
        refuse_unknown_names([device], [component], [metric])
    return device, found


def requested_devices(request: Any, wanted: dict[str, Any]) -> list[Device] | None:
    """Return the devices of the parameter `device`, or all that the client can see; None for all of the tenant."""
    return select_devices(request, {"device": wanted["device"]} if "device" in wanted else {})


def device_ids(request: Any, wanted: dict[str, Any]) -> list[int] | None:
    """Return the ids of `requested_devices`."""
    devices = requested_devices(request, wanted)
    return None if devices is None else [device.pk for device in devices]


def _narrowed(request: Any, rows: QuerySet[Device], wanted: dict[str, Any]) -> QuerySet[Device]:
    if "place" in wanted:
        rows = rows.filter(within(place_paths(request, wanted["place"]).values(), "place__path"))
    if "tag" in wanted:
        rows = rows.filter(tags__contains=wanted["tag"])
    if "hardware_model" in wanted:
        _refuse_unknown_models(wanted["hardware_model"])
        rows = rows.filter(hardware_model__in=wanted["hardware_model"])
    return rows


def place_paths(request: Any, keys: Iterable[str]) -> dict[str, str]:
    """Return key → path of the places, in this order. Raises NotFound for one that the client cannot see."""
    wanted = list(dict.fromkeys(keys))
    rows = visible_places(selector_of(request)).filter(key__in=wanted).order_by()
    paths = dict(rows.values_list("key", "path"))
    for key in wanted:
        if key not in paths:
            raise NotFound(_("There is no place with the key %(key)r. places/ lists the places.") % {"key": key})
    return {key: paths[key] for key in wanted}


def _refuse_unknown_models(ids: Iterable[int]) -> None:
    known = set(HardwareModel.objects.filter(pk__in=list(ids)).values_list("pk", flat=True))
    for number in ids:
        if number not in known:
            text = _("There is no hardware model with the id %(id)s. hardware-models/ lists the hardware models.")
            raise NotFound(text % {"id": number})


# --- names of component types, components and metrics --------------------------------------------------------


def refuse_unknown_types(keys: Iterable[str]) -> None:
    """Raise NotFound for a component type that does not exist."""
    wanted = list(keys)
    known = set(ComponentType.objects.filter(key__in=wanted).values_list("key", flat=True)) if wanted else set()
    for key in wanted:
        if key not in known:
            text = _("There is no component type with the key %(key)r. component-types/ lists the component types.")
            raise NotFound(text % {"key": key})


def refuse_unknown_names(
    devices: Sequence[Device] | None, components: Iterable[str] = (), metrics: Iterable[str] = ()
) -> None:
    """Raise NotFound for a name that none of the devices has, with those that there are; None: of all devices."""
    components, metrics = list(components), list(metrics)
    if devices is None:
        _refuse_unknown_in_tenant(components, metrics)
    elif devices and (components or metrics):
        _refuse_unknown(devices, components, metrics)


def _refuse_unknown(devices: Sequence[Device], components: Sequence[str], metrics: Sequence[str]) -> None:
    ids = [device.pk for device in devices]
    parts = set(Component.objects.filter(device__in=ids).order_by().values_list("key", "component_type_id"))
    rows = Series.objects.filter(device__in=ids).order_by()
    measured = set(rows.values_list("component", "metric").distinct())
    there = {component for component, _type in parts} | {component for component, _metric in measured}
    for component in components:
        if component not in there:
            values = {"device": _text_of(devices), "component": component, "known": _listed(there)}
            raise NotFound(_("%(device)s has no component %(component)r. It has: %(known)s.") % values)
    chosen = set(components) or there
    measurable = {metric for component, metric in measured if component in chosen}
    of_types = {kind for component, kind in parts if component in chosen}
    measurable |= set(Metric.objects.filter(component_type_id__in=of_types).values_list("key", flat=True))
    for metric in metrics:
        if metric not in measurable:
            values = {"component": _listed(chosen), "metric": metric, "known": _listed(measurable)}
            raise NotFound(_("%(component)s has no metric %(metric)r. It has: %(known)s.") % values)


def _refuse_unknown_in_tenant(components: Sequence[str], metrics: Sequence[str]) -> None:
    for component in components:
        rows = (Component.objects.filter(key=component), Series.objects.filter(component=component))
        if not any(found.exists() for found in rows):
            text = _("No device has a component %(component)r. components/ lists the components.")
            raise NotFound(text % {"component": component})
    for metric in metrics:
        known = (Metric.objects.filter(key=metric), Series.objects.filter(metric=metric))
        if not any(found.exists() for found in known):
            raise NotFound(_("There is no metric %(metric)r. metrics/ lists the metrics.") % {"metric": metric})


def _text_of(devices: Sequence[Device]) -> str:
    if len(devices) <= _NAMED_DEVICES:
        return ", ".join(device.name for device in devices)
    return _("The selection of %(number)d devices") % {"number": len(devices)}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name if name == name.strip() else repr(name) for name in sorted(names)) or _("none")
