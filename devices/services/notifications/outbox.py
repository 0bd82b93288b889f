"""The outbox of status changes: committed changes are published to apps in order, and numbered for event streams.

One transaction per batch, under the tenant's lock: read the changes without a position, publish those that are not
suppressed, wait for the broker's acknowledgements, assign the positions, commit. Consequences:

* A crash or an unavailable broker before the commit leaves the changes in the outbox, and they are published again: the
  broker receives each at least once, an app at most twice. States are retained messages, so a repetition changes
  nothing.
* Positions are assigned with the commit or not at all: each change has exactly one, in the order of publishing.
* The lock prevents several notifiers from publishing a change twice, or an old state after a newer one.

Suppressed changes are numbered too, with the reason. Their device's state is published once when the reason is over
(`publish_pending`).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import Device, DeviceStatus, MaintenanceWindow, StatusChange
from devices.models.presence import Status, SuppressedBy

from . import status_feed

logger = logging.getLogger(__name__)

BATCH = 500
# A notifier that hangs in a transaction loses the lock.
FROZEN_SECONDS = 60


class NotifierBusy(Exception):
    """Another notifier works on this tenant. It may have started before the newest change, so the caller must retry."""


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """A state to publish. `recorded_at`: the last activity as of the last transition."""

    device_id: int
    uuid: UUID
    status: str
    cause: str
    flapping: bool
    recorded_at: datetime | None


# Publishes states of the current tenant in order; returns when the broker has acknowledged all, raises otherwise.
Publish = Callable[[Sequence[StateUpdate]], None]


def publish_changes(schema: str, publish: Publish) -> int:
    """Publish a batch of the tenant's outbox. Return how many changes; fewer than BATCH means that it is empty.

    Raises NotifierBusy, the errors of `publish`, and those of a lost database; the changes then stay in the outbox.
    """
    with _locked(schema):
        changes = list(
            StatusChange.objects.filter(position=None).select_related("device__presence").order_by("id")[:BATCH]
        )
        if not changes:
            return 0
        before = {change.device_id: _status_of(change.device).pending_update for change in changes}
        updates, after = _evaluate(changes, dict(before))
        publish(updates)
        status_feed.give_positions(changes)
        _save(changes)
        _save_pending({key: value for key, value in after.items() if value != before[key]})
    status_feed.announce(schema, changes)
    return len(changes)


def publish_pending(schema: str, publish: Publish) -> int:
    """Publish the state of devices whose suppression is over: no longer flapping, or their maintenance window ended.

    Return how many devices; raises as `publish_changes` does.
    """
    with _locked(schema):
        now = timezone.now()
        windows = MaintenanceWindow.objects.filter(device=OuterRef("device"), starts_at__lte=now, ends_at__gt=now)
        still_flapping = Q(pending_update=SuppressedBy.FLAPPING, flapping_until__gt=now)
        due = list(
            DeviceStatus.objects.exclude(pending_update="")
            .exclude(still_flapping)
            .exclude(Exists(windows))
            .select_related("device")
            .order_by("pk")[:BATCH]
        )
        publish([_current_update(status, now) for status in due if status.device.active])
        _save_pending(
            {
                status.pk: SuppressedBy.FLAPPING if status.device.active and _is_flapping(status, now) else ""
                for status in due
            }
        )
    return len(due)


def publish_current(schema: str, uuids: Sequence[UUID], publish: Publish) -> int:
    """Publish the present state of the devices on request, suppressed or not. Deactivated ones are skipped.

    Return how many; raises as `publish_changes` does.
    """
    with _locked(schema):
        now = timezone.now()
        found = DeviceStatus.objects.filter(device__uuid__in=uuids, device__active=True).select_related("device")
        states = [_current_update(status, now) for status in found.order_by("pk")]
        publish(states)
    return len(states)


def suppression_of(change: StatusChange, *, in_window: bool, pending_update: str) -> str:
    """Return why the change is not published; "" if it is. `pending_update` is the device's, as of this change.

    The start of flapping is published once; from then on the device has a pending update until it settles.
    """
    if not change.device.active:
        return "" if change.to_status == Status.UNKNOWN else SuppressedBy.INACTIVE
    if in_window:
        return SuppressedBy.MAINTENANCE
    if pending_update == SuppressedBy.FLAPPING and _is_flapping(_status_of(change.device), change.at):
        return SuppressedBy.FLAPPING
    return ""


@contextmanager
def _locked(schema: str) -> Iterator[None]:
    """Enter a transaction in the schema as its only notifier. Raises NotifierBusy."""
    with schema_context(schema), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_try_advisory_xact_lock(hashtext('gwanje_notify'), hashtext(%s)),"
                " set_config('idle_in_transaction_session_timeout', %s, true)",
                [schema, f"{FROZEN_SECONDS}s"],
            )
            if not cursor.fetchone()[0]:
                raise NotifierBusy(schema)
        yield


def _evaluate(
    changes: Sequence[StatusChange], pending_update: dict[int, str]
) -> tuple[list[StateUpdate], dict[int, str]]:
    """Set `suppressed_by` of each change.

    Return the states to publish, and each device's `pending_update` afterwards.
    """
    now, windows = timezone.now(), _windows(changes)
    updates = []
    for change in changes:
        status, key = _status_of(change.device), change.device_id
        in_window = any(start <= change.at < end for start, end in windows.get(key, ()))
        change.suppressed_by = suppression_of(change, in_window=in_window, pending_update=pending_update[key])
        if not change.suppressed_by:
            updates.append(_update(status, change.to_status, change.cause, now))
        pending_update[key] = _pending_after(change, status, pending_update[key])
    return updates, pending_update


def _pending_after(change: StatusChange, status: DeviceStatus, pending_update: str) -> str:
    if not change.device.active:
        return ""
    if change.suppressed_by == SuppressedBy.MAINTENANCE:
        return pending_update or change.suppressed_by
    return SuppressedBy.FLAPPING if _is_flapping(status, change.at) else ""


def _windows(changes: Sequence[StatusChange]) -> dict[int, list[tuple[datetime, datetime]]]:
    """Return the maintenance windows by device that may contain any of the changes."""
    times = [change.at for change in changes]
    rows = MaintenanceWindow.objects.filter(
        device__in={change.device_id for change in changes}, starts_at__lte=max(times), ends_at__gt=min(times)
    )
    windows: dict[int, list[tuple[datetime, datetime]]] = {}
    for key, start, end in rows.values_list("device_id", "starts_at", "ends_at"):
        windows.setdefault(key, []).append((start, end))
    return windows


def _status_of(device: Device) -> DeviceStatus:
    return getattr(device, "presence", None) or DeviceStatus(device=device)


def _is_flapping(status: DeviceStatus, at: datetime) -> bool:
    return status.flapping_until is not None and status.flapping_until > at


def _current_update(status: DeviceStatus, now: datetime) -> StateUpdate:
    return _update(status, status.status, status.cause, now)


def _update(status: DeviceStatus, state: str, cause: str, now: datetime) -> StateUpdate:
    device = status.device
    return StateUpdate(
        device.pk, device.uuid, state, cause, device.active and _is_flapping(status, now), status.last_seen_at
    )


def _save(changes: Sequence[StatusChange]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE devices_statuschange AS c SET position = n.position, quiet = n.quiet"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) AS n(id, position, quiet) WHERE c.id = n.id",
            [[c.pk for c in changes], [c.position for c in changes], [str(c.suppressed_by) for c in changes]],
        )


def _save_pending(pending_update: dict[int, str]) -> None:
    """Save the pending updates by device. Rows are locked in the same order as in `presence`."""
    rows = DeviceStatus.objects.filter(pk__in=pending_update)
    list(rows.select_for_update().order_by("pk").values_list("pk"))
    for value in set(pending_update.values()):
        rows.filter(pk__in=[key for key, own in pending_update.items() if own == value]).update(pending_update=value)
