"""How long a device may be silent: its own time-out, else its model's, else what it reports and the tenant's least.

The last is the larger of the tenant's `timeout_seconds` and one and a half expected intervals, and at least two
missed reports; the device's expected interval is the shortest of its attached components.
"""

from collections.abc import Iterable
from uuid import UUID

from django.db import models
from django.db.models import Min, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from devices.models import Component, Device, PresenceSettings


class Source(models.TextChoices):
    """What a device's time-out comes from."""

    DEVICE = "device", _("set for the device")
    MODEL = "model", _("set for the hardware model")
    INTERVAL = "interval", _("two missed reports of its most frequent component")
    TENANT = "tenant", _("minimum time-out of the tenant")


def timeout_of(own: int | None, model: int | None, least: int, intervals: Iterable[int]) -> float:
    """The time-out in seconds, from the four that may say something about it."""
    if own is not None:
        return float(own)
    if model is not None:
        return float(model)
    interval = min(intervals, default=0)
    return max(float(least), 1.5 * interval, 2.0 * interval)


def source_of(own: int | None, model: int | None, least: int, intervals: Iterable[int]) -> Source:
    """Which of the four the time-out comes from."""
    if own is not None:
        return Source.DEVICE
    if model is not None:
        return Source.MODEL
    return Source.INTERVAL if timeout_of(None, None, 0, intervals) > least else Source.TENANT


def effective(device: Device, least: int) -> tuple[float, Source]:
    """The device's time-out in seconds and what it comes from. `least` is the tenant's `timeout_seconds`.

    Reads the hardware model, the components and their types, where they are not loaded yet.
    """
    model = device.hardware_model.timeout_seconds if device.hardware_model else None
    intervals = [interval_of(component) for component in device.components.all() if component.attached]
    given = device.timeout_seconds, model, least, intervals
    return timeout_of(*given), source_of(*given)


def interval_of(component: Component) -> int:
    """How often the component is expected to report, in seconds."""
    return component.expected_interval or component.component_type.expected_interval


def timeouts_of(devices: QuerySet[Device]) -> dict[UUID, float]:
    """The time-outs of the current tenant's devices, in two queries."""
    least = PresenceSettings.current().timeout_seconds
    rows = devices.annotate(
        interval=Min(
            Coalesce("components__expected_interval", "components__component_type__expected_interval"),
            filter=Q(components__attached=True),
        )
    ).values_list("uuid", "timeout_seconds", "hardware_model__timeout_seconds", "interval")
    return {uuid: timeout_of(own, model, least, [interval] if interval else []) for uuid, own, model, interval in rows}
