"""Everything that is shown of the presence of devices: their state, its evidence, and what follows from it now."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from django.db.models import Prefetch, prefetch_related_objects

from devices.models import Component, Device, DeviceStatus, MaintenanceWindow, PresenceSettings, StatusChange
from devices.services.presence.timeouts import Source, effective

from . import activity, freshness, status_changes


@dataclass(frozen=True, slots=True)
class Overview:
    """A device's presence. `change` is the row of the ledger that led to its state; None where there is none yet."""

    status: DeviceStatus
    change: StatusChange | None
    last_seen_at: datetime | None
    flapping: bool
    in_maintenance: bool
    timeout: float  # seconds
    timeout_from: Source
    reports: Mapping[int, freshness.Report] = field(default_factory=dict)  # by component id


def of_devices(devices: Iterable[Device], now: datetime) -> dict[int, Overview]:
    """By device id; four queries and one question to Redis for all of them.

    Status and hardware model are read for each where they are not loaded yet, components for all.
    """
    listed = list(devices)
    if not listed:
        return {}
    prefetch_related_objects(listed, Prefetch("components", Component.objects.select_related("component_type")))
    ids = [device.pk for device in listed]
    least = PresenceSettings.current().timeout_seconds
    changes, seen = status_changes.newest_changes(ids), last_seen(listed)
    maintained = _in_maintenance(ids, now)
    reports = freshness.reports((part for device in listed for part in device.components.all()), now)
    overviews = {}
    for device in listed:
        status, (timeout, source) = status_of(device), effective(device, least)
        overviews[device.pk] = Overview(
            status,
            changes.get(device.pk),
            seen[device.pk],
            is_flapping(status, now),
            device.pk in maintained,
            timeout,
            source,
            {part.pk: reports[part.pk] for part in device.components.all()},
        )
    return overviews


def of_device(device: Device, now: datetime) -> Overview:
    """The same of one device."""
    return of_devices([device], now)[device.pk]


def status_of(device: Device) -> DeviceStatus:
    """The device's state; UNKNOWN where none was recorded."""
    return getattr(device, "presence", None) or DeviceStatus(device=device)


def last_seen(devices: Iterable[Device]) -> dict[int, datetime | None]:
    """By device id, the newest sign of life: Redis' where it has one, else that of the last transition."""
    listed = list(devices)
    fresh = activity.last_seen([device.uuid for device in listed])
    return {device.pk: _newest(device.uuid, fresh, status_of(device).last_seen_at) for device in listed}


def is_flapping(status: DeviceStatus, now: datetime) -> bool:
    """Whether the device changes so often that its changes are not told."""
    return status.flapping_until is not None and status.flapping_until > now


def _newest(uuid: UUID, fresh: Mapping[UUID, float], recorded: datetime | None) -> datetime | None:
    live = datetime.fromtimestamp(fresh[uuid], UTC) if uuid in fresh else None
    return max((time for time in (live, recorded) if time), default=None)


def _in_maintenance(device_ids: Collection[int], now: datetime) -> set[int]:
    windows = MaintenanceWindow.objects.filter(device__in=device_ids, starts_at__lte=now, ends_at__gt=now)
    return set(windows.values_list("device_id", flat=True))
