"""How long a device may be silent: its own time-out, else its model's, else what it reports and the tenant's least.

The last is the larger of the tenant's `timeout_seconds` and one and a half expected intervals, and at least two
missed reports; the device's expected interval is the shortest of its attached components.
"""

from collections.abc import Iterable
from uuid import UUID

from django.db.models import Min, Q, QuerySet
from django.db.models.functions import Coalesce

from devices.models import Component, Device, PresenceSettings


def timeout_of(own: int | None, model: int | None, least: int, intervals: Iterable[int]) -> float:
    """The time-out in seconds, from the four that may say something about it."""
    if own is not None:
        return float(own)
    if model is not None:
        return float(model)
    interval = min(intervals, default=0)
    return max(float(least), 1.5 * interval, 2.0 * interval)


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
