"""Timeouts: of the device, else of its hardware model, else from its reporting interval and the tenant's minimum.

The last is the larger of the tenant's `timeout_seconds` and one and a half expected intervals, and at least two
missed reports; the device's expected interval is the shortest of its attached components.
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db import models
from django.db.models import Min, Prefetch, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from devices.models import Component, Device, PresenceSettings


class TimeoutSource(models.TextChoices):
    """The setting that a device's timeout comes from."""

    DEVICE = "device", _("set for the device")
    MODEL = "model", _("set for the hardware model")
    INTERVAL = "interval", _("two missed reports of its most frequent component")
    TENANT = "tenant", _("minimum timeout of the tenant")


def timeout_of(own: int | None, model: int | None, least: int, intervals: Iterable[int]) -> float:
    """Return the timeout in seconds, from the settings of device, model and tenant, and the reporting intervals."""
    if own is not None:
        return float(own)
    if model is not None:
        return float(model)
    interval = min(intervals, default=0)
    return max(float(least), 1.5 * interval, 2.0 * interval)


def source_of(own: int | None, model: int | None, least: int, intervals: Iterable[int]) -> TimeoutSource:
    """Return which of the four settings the timeout comes from."""
    if own is not None:
        return TimeoutSource.DEVICE
    if model is not None:
        return TimeoutSource.MODEL
    return TimeoutSource.INTERVAL if timeout_of(None, None, 0, intervals) > least else TimeoutSource.TENANT


def effective_timeout(device: Device, least: int) -> tuple[float, TimeoutSource]:
    """Return the device's timeout in seconds and its source. `least` is the tenant's `timeout_seconds`.

    Loads the hardware model, the components and their types if they are not loaded yet.
    """
    model = device.hardware_model.timeout_seconds if device.hardware_model else None
    intervals = [interval_of(component) for component in loaded(device, "components") if component.attached]
    given = device.timeout_seconds, model, least, intervals
    return timeout_of(*given), source_of(*given)


def loaded(device: Device, relation: str) -> list[Any]:
    """Return the related objects of a device, without a query where they were prefetched, as by `prefetched`.

    Django's own `all()`, and its prefetching, build a manager and a query for each device of a page first.
    """
    found = getattr(device, f"loaded_{relation}", None)
    if found is None:
        found = getattr(device, "_prefetched_objects_cache", {}).get(relation)
    return list(getattr(device, relation).all() if found is None else found)


def prefetched(relation: str, objects: QuerySet[Any]) -> Prefetch:
    """Return a prefetch of a relation of devices, of which `loaded` returns the objects."""
    return Prefetch(relation, objects, to_attr=f"loaded_{relation}")


def prefetched_components() -> Prefetch:
    """Return the prefetch of the components with their types."""
    return prefetched("components", Component.objects.select_related("component_type"))


def interval_of(component: Component) -> int:
    """Return the component's expected reporting interval in seconds."""
    return component.expected_interval or component.component_type.expected_interval


def timeouts_of(devices: QuerySet[Device]) -> dict[UUID, float]:
    """Return the timeouts in seconds of the current tenant's devices by UUID, in two queries."""
    least = PresenceSettings.current().timeout_seconds
    rows = devices.annotate(
        interval=Min(
            Coalesce("components__expected_interval", "components__component_type__expected_interval"),
            filter=Q(components__attached=True),
        )
    ).values_list("uuid", "timeout_seconds", "hardware_model__timeout_seconds", "interval")
    return {uuid: timeout_of(own, model, least, [interval] if interval else []) for uuid, own, model, interval in rows}
