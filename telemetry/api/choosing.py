"""Which series a request means."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _
from rest_framework.exceptions import NotFound, ValidationError

from devices.models import Component, Device, Metric
from telemetry.models import Series


@dataclass(frozen=True, slots=True)
class Chosen:
    """The series that are meant, by device in the order of the request, component, metric and id."""

    devices: Sequence[Device]
    series: Sequence[Series]

    def device_of(self, one: Series) -> str:
        """The UUID of a series' device."""
        return next(str(device.uuid) for device in self.devices if device.pk == one.device_id)


def choose(wanted: dict[str, Any], most: int | None = None) -> Chosen:
    """The series of `device`, `component` and `metric`; what has never been measured has none; three queries at most.

    Raises NotFound for names that none of the devices has, with those that there are, and ValidationError for more
    than `most` series.
    """
    devices = _devices(wanted["device"])
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
        raise ValidationError(
            {"device": _("These are %(number)d series, and %(most)d at most: name fewer devices or metrics.") % values}
        )
    order = {device.pk: number for number, device in enumerate(devices.values())}
    found.sort(key=lambda one: (order[one.device_id], one.component, one.metric, one.pk))
    return Chosen(list(devices.values()), found)


def devices_of(uuids: Iterable[UUID]) -> list[Device]:
    """The current tenant's devices, in this order. Raises NotFound, in the same words for another tenant's."""
    return list(_devices(uuids).values())


def _devices(uuids: Iterable[UUID]) -> dict[UUID, Device]:
    wanted = list(dict.fromkeys(uuids))
    found = {device.uuid: device for device in Device.objects.filter(uuid__in=wanted)}
    for uuid in wanted:
        if uuid not in found:
            raise NotFound(
                _("There is no device with the UUID %(uuid)s: devices/ lists those there are.") % {"uuid": uuid}
            )
    return {uuid: found[uuid] for uuid in wanted}


def _names(found: Iterable[Series], components: Collection[str], metrics: Collection[str]) -> bool:
    """Whether every name is that of one of the series."""
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


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or _("none")
