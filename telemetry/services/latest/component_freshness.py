"""When each component last reported: the newest of its readings, by their own time."""

from collections.abc import Collection
from datetime import datetime

from telemetry.models import Series

from .values import newest_readings


def component_reading_times(device_ids: Collection[int]) -> dict[tuple[int, str], datetime]:
    """By (device id, component's key) in the current tenant, without those that have no readings; two queries."""
    series = Series.objects.filter(device_id__in=device_ids).values_list("pk", "device_id", "component")
    components = {pk: (device, component) for pk, device, component in series}
    found: dict[tuple[int, str], datetime] = {}
    for pk, newest in newest_readings(components).items():
        key = components[pk]
        found[key] = max(newest.time, found.get(key, newest.time))
    return found
