"""Presence of devices as it is shown: state, evidence, timeout and freshness."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from django.db.models import prefetch_related_objects

from devices.models import Device, DeviceContact, DeviceStatus, MaintenanceWindow, PresenceSettings, StatusChange
from devices.services.presence.timeouts import TimeoutSource, effective_timeout, loaded, prefetched_components

from . import activity, freshness, status_changes


@dataclass(frozen=True, slots=True)
class PresenceOverview:
    """The presence of a device. `change` is the status change that led to the state, None if there is none.

    `contact` is a verified message that came after the last activity and does not count, None if there is none.
    """

    status: DeviceStatus
    change: StatusChange | None
    last_seen_at: datetime | None
    flapping: bool
    in_maintenance: bool
    timeout: float  # seconds
    timeout_source: TimeoutSource
    reports: Mapping[int, freshness.ComponentReport] = field(default_factory=dict)  # by component id
    contact: DeviceContact | None = None


def overviews_of(devices: Iterable[Device], now: datetime) -> dict[int, PresenceOverview]:
    """Return the overviews by device id, with four queries and one request to Redis for all.

    Status and hardware model are loaded per device if they are not yet, components for all at once.
    """
    listed = list(devices)
    if not listed:
        return {}
    if bare := [device for device in listed if not hasattr(device, "loaded_components")]:
        prefetch_related_objects(bare, prefetched_components())
    ids = [device.pk for device in listed]
    least = PresenceSettings.current().timeout_seconds
    changes, seen = status_changes.newest_changes(ids), last_seen(listed)
    maintained = _in_maintenance(ids, now)
    reports = freshness.component_reports((part for device in listed for part in loaded(device, "components")), now)
    overviews = {}
    for device in listed:
        status, (timeout, source) = status_of(device), effective_timeout(device, least)
        overviews[device.pk] = PresenceOverview(
            status,
            changes.get(device.pk),
            seen[device.pk],
            is_flapping(status, now),
            device.pk in maintained,
            timeout,
            source,
            {part.pk: reports[part.pk] for part in loaded(device, "components")},
            contact_of(device, seen[device.pk]),
        )
    return overviews


def overview_of(device: Device, now: datetime) -> PresenceOverview:
    """Return the overview of one device."""
    return overviews_of([device], now)[device.pk]


def status_of(device: Device) -> DeviceStatus:
    """Return the device's state; UNKNOWN if none was recorded."""
    return getattr(device, "presence", None) or DeviceStatus(device=device)


def contact_of(device: Device, seen: datetime | None) -> DeviceContact | None:
    """Return the device's contact if it is newer than its last activity."""
    contact: DeviceContact | None = getattr(device, "contact", None)
    return contact if contact is not None and (seen is None or contact.received_at > seen) else None


def last_seen(devices: Iterable[Device]) -> dict[int, datetime | None]:
    """Return the newest activity by device id: from Redis, or else from the last transition."""
    listed = list(devices)
    fresh = activity.last_seen([device.uuid for device in listed])
    return {device.pk: _newest(device.uuid, fresh, status_of(device).last_seen_at) for device in listed}


def is_flapping(status: DeviceStatus, now: datetime) -> bool:
    """Return whether the device changes so often that its changes are not published."""
    return status.flapping_until is not None and status.flapping_until > now


def _newest(uuid: UUID, fresh: Mapping[UUID, float], recorded: datetime | None) -> datetime | None:
    live = datetime.fromtimestamp(fresh[uuid], UTC) if uuid in fresh else None
    return max((time for time in (live, recorded) if time), default=None)


def _in_maintenance(device_ids: Collection[int], now: datetime) -> set[int]:
    windows = MaintenanceWindow.objects.filter(device__in=device_ids, starts_at__lte=now, ends_at__gt=now)
    return set(windows.values_list("device_id", flat=True))
