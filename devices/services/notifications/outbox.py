"""The outbox: changes of state that are committed are told to apps, in order, and numbered for watchers.

One transaction a batch, under the tenant's lock: read the changes that have no position, tell those that are not
quiet, wait until the broker has them, give the positions, commit. What follows from that:

* A crash, or a broker that is away, before the commit leaves the changes in the outbox, and they are told again:
  the broker hears of each at least once, and an app twice at most of what was under way. The state is retained,
  so hearing it twice changes nothing.
* Positions are given with the commit or not at all: each change has one, once, in the order of telling.
* The lock keeps several notifiers from telling a change twice, or an old state after a newer one.

Quiet changes are numbered too, with the reason, and nobody is told; their device is told again, once, when its
reason is over (`settle`).
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
from devices.models.presence import Quiet, Status

from . import status_feed

logger = logging.getLogger(__name__)

BATCH = 500
# A notifier that stands still in the middle of its work loses the lock to the others.
FROZEN_SECONDS = 60


class Busy(Exception):
    """Another notifier is at work on this tenant; it may have begun before the newest change, so ask again."""


@dataclass(frozen=True, slots=True)
class Told:
    """A state to publish. `recorded_at`: the last sign of life as of the last transition."""

    device_id: int
    uuid: UUID
    status: str
    reason: str
    flapping: bool
    recorded_at: datetime | None


# Publishes states of the current tenant, in order, and returns when the broker has them all; raises otherwise.
Tell = Callable[[Sequence[Told]], None]


def notify_tenant(schema: str, tell: Tell) -> int:
    """Take a batch of the tenant's changes out of its outbox. Returns how many; fewer than BATCH: it is empty.

    Raises Busy, what `tell` raises, and what a lost database raises; the changes then stay in the outbox.
    """
    with _locked(schema):
        changes = list(
            StatusChange.objects.filter(position=None).select_related("device__presence").order_by("id")[:BATCH]
        )
        if not changes:
            return 0
        before = {change.device_id: _status_of(change.device).untold for change in changes}
        told, after = _judge(changes, dict(before))
        tell(told)
        status_feed.give_positions(changes)
        _save(changes)
        _save_untold({key: value for key, value in after.items() if value != before[key]})
    status_feed.announce(schema, changes)
    return len(changes)


def settle(schema: str, tell: Tell) -> int:
    """Tell the state of devices that were quiet and are so no more: no longer flapping, their window ended.

    Returns how many devices; raises as `notify_tenant` does.
    """
    with _locked(schema):
        now = timezone.now()
        windows = MaintenanceWindow.objects.filter(device=OuterRef("device"), starts_at__lte=now, ends_at__gt=now)
        still_flapping = Q(untold=Quiet.FLAPPING, flapping_until__gt=now)
        due = list(
            DeviceStatus.objects.exclude(untold="")
            .exclude(still_flapping)
            .exclude(Exists(windows))
            .select_related("device")
            .order_by("pk")[:BATCH]
        )
        tell([_present(status, now) for status in due if status.device.active])
        _save_untold(
            {status.pk: Quiet.FLAPPING if status.device.active and _flaps(status, now) else "" for status in due}
        )
    return len(due)


def tell_now(schema: str, uuids: Sequence[UUID], tell: Tell) -> int:
    """Tell the present state of these devices, quiet or not: somebody asked. Deactivated ones are passed over.

    Returns how many; raises as `notify_tenant` does.
    """
    with _locked(schema):
        now = timezone.now()
        found = DeviceStatus.objects.filter(device__uuid__in=uuids, device__active=True).select_related("device")
        states = [_present(status, now) for status in found.order_by("pk")]
        tell(states)
    return len(states)


def why_quiet(change: StatusChange, *, in_window: bool, untold: str) -> str:
    """Why nobody is told of the change; "" where apps are. `untold` is the device's, as of this change.

    A device that begins to flap is told once more; it is `untold` from then on, until it settles.
    """
    if not change.device.active:
        return "" if change.to_status == Status.UNKNOWN else Quiet.INACTIVE
    if in_window:
        return Quiet.MAINTENANCE
    if untold == Quiet.FLAPPING and _flaps(_status_of(change.device), change.at):
        return Quiet.FLAPPING
    return ""


@contextmanager
def _locked(schema: str) -> Iterator[None]:
    """A transaction in the schema, as the only notifier there. Raises Busy."""
    with schema_context(schema), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_try_advisory_xact_lock(hashtext('gwanje_notify'), hashtext(%s)),"
                " set_config('idle_in_transaction_session_timeout', %s, true)",
                [schema, f"{FROZEN_SECONDS}s"],
            )
            if not cursor.fetchone()[0]:
                raise Busy(schema)
        yield


def _judge(changes: Sequence[StatusChange], untold: dict[int, str]) -> tuple[list[Told], dict[int, str]]:
    """Set `quiet` of each change; the states to tell, and each device's `untold` afterwards."""
    now, windows = timezone.now(), _windows(changes)
    told = []
    for change in changes:
        status, key = _status_of(change.device), change.device_id
        in_window = any(start <= change.at < end for start, end in windows.get(key, ()))
        change.quiet = why_quiet(change, in_window=in_window, untold=untold[key])
        if not change.quiet:
            told.append(_told(status, change.to_status, change.cause, now))
        untold[key] = _untold_after(change, status, untold[key])
    return told, untold


def _untold_after(change: StatusChange, status: DeviceStatus, untold: str) -> str:
    if not change.device.active:
        return ""
    if change.quiet == Quiet.MAINTENANCE:
        return untold or change.quiet
    return Quiet.FLAPPING if _flaps(status, change.at) else ""


def _windows(changes: Sequence[StatusChange]) -> dict[int, list[tuple[datetime, datetime]]]:
    """The maintenance windows that any of the changes may lie in, by device."""
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


def _flaps(status: DeviceStatus, at: datetime) -> bool:
    return status.flapping_until is not None and status.flapping_until > at


def _present(status: DeviceStatus, now: datetime) -> Told:
    return _told(status, status.status, status.reason, now)


def _told(status: DeviceStatus, state: str, reason: str, now: datetime) -> Told:
    device = status.device
    return Told(device.pk, device.uuid, state, reason, device.active and _flaps(status, now), status.last_seen_at)


def _save(changes: Sequence[StatusChange]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE devices_statuschange AS c SET position = n.position, quiet = n.quiet"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) AS n(id, position, quiet) WHERE c.id = n.id",
            [[c.pk for c in changes], [c.position for c in changes], [str(c.quiet) for c in changes]],
        )


def _save_untold(untold: dict[int, str]) -> None:
    """By device. The rows are locked in the order in which presence locks them."""
    rows = DeviceStatus.objects.filter(pk__in=untold)
    list(rows.select_for_update().order_by("pk").values_list("pk"))
    for value in set(untold.values()):
        rows.filter(pk__in=[key for key, own in untold.items() if own == value]).update(untold=value)
