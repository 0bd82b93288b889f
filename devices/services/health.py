"""The health checker's steps: devices whose deadline passed become TIMEOUT. Any number of checkers may run.

An expired deadline is moved to a second set with a lease before PostgreSQL is asked: a sign of life that comes
meanwhile finds no deadline and so sets the state itself; a checker that dies leaves the lease to the next.
A pass over nothing expired asks Redis and touches no row, however many devices there are.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.models import Device, DeviceStatus
from devices.services import presence
from devices.services import presence_scripts as scripts
from devices.services.presence_machine import Signal
from devices.services.presence_store import apply_signals
from devices.services.timeouts import timeouts_of
from tenants.models import Tenant
from tenants.schemas import leave_schema

logger = logging.getLogger(__name__)

_CHUNK = 5000


@dataclass(frozen=True, slots=True)
class Expired:
    """Deadlines that were taken, leased to this checker: member → (schema, UUID, last seen)."""

    now: float
    overdue_seconds: float = 0.0
    members: dict[str, tuple[str, UUID, float]] = field(default_factory=dict)
    obstacle: str = ""  # deaf: nobody listens; stepped: the clock was set back


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass did. `overdue_seconds`: how long ago the oldest of the deadlines had passed."""

    expired: int = 0
    timed_out: int = 0
    wills: int = 0
    overdue_seconds: float = 0.0
    obstacle: str = ""


def check(limit: int = 2000) -> Pass:
    """One pass. Raises what a lost Redis or database raises; the leases then run out and are taken again."""
    if get_redis_connection("default").set(scripts.MARKER, 1, nx=True):
        reconcile()
    expired = take_expired(limit)
    if expired.obstacle == "stepped":
        logger.warning("The clock was set back: %d devices get their whole time-out from now on", reanchor())
    return Pass(
        expired=len(expired.members),
        timed_out=settle(expired),
        wills=decide_waiting_wills(limit),
        overdue_seconds=expired.overdue_seconds,
        obstacle=expired.obstacle,
    )


def take_expired(limit: int) -> Expired:
    """Lease what has expired, to be settled by this checker."""
    keys = (
        scripts.LISTENING,
        scripts.DEADLINE,
        scripts.EXPIRING,
        scripts.LAST_SEEN,
        scripts.TIMEOUT,
        scripts.UNHEARD,
    )
    answer = get_redis_connection("default").eval(scripts.TAKE_EXPIRED, len(keys), *keys, limit)
    now, obstacle = float(answer[0]), answer[1].decode()
    if obstacle:
        return Expired(now, obstacle=obstacle)
    members = {}
    for member, seen in zip(answer[3::2], answer[4::2], strict=True):
        schema, uuid = member.decode().split(":", 1)
        members[member.decode()] = schema, UUID(uuid), float(seen or now)
    return Expired(now, float(answer[2]), members)


def settle(expired: Expired) -> int:
    """TIMEOUT for the devices that are ONLINE and were not seen since; then the leases end. Returns how many."""
    by_schema: dict[str, list[tuple[UUID, float]]] = {}
    for schema, uuid, seen in expired.members.values():
        by_schema.setdefault(schema, []).append((uuid, seen))
    timed_out, still_online = 0, []
    for schema in _existing(by_schema):
        ids = _ids_of(schema, [uuid for uuid, _ in by_schema[schema]])
        signals = [
            (ids[uuid], Signal("silence", datetime.fromtimestamp(seen, UTC)))
            for uuid, seen in by_schema[schema]
            if uuid in ids
        ]
        applied = apply_signals(schema, signals, datetime.fromtimestamp(expired.now, UTC))
        timed_out += len(applied.changes)
        # Heard between our question and our answer, by a listener that found a deadline there: an older sign of life,
        # delivered again, had put it back. A device in any other state has had better evidence than silence.
        heard = presence.last_seen(ids)
        later = [
            (ids[uuid], Signal("telemetry", datetime.fromtimestamp(heard[uuid], UTC)))
            for uuid, seen in by_schema[schema]
            if uuid in ids
            and heard.get(uuid, seen) > seen
            and applied.states[ids[uuid]].status == DeviceStatus.Status.TIMEOUT
        ]
        states = dict(applied.states)
        if later:
            states |= apply_signals(schema, later, datetime.fromtimestamp(expired.now, UTC)).states
        still_online += [
            f"{schema}:{uuid}" for uuid, key in ids.items() if states[key].status == DeviceStatus.Status.ONLINE
        ]
    _end_leases(expired, still_online)
    return timed_out


def decide_waiting_wills(limit: int) -> int:
    """Wills without a session whose grace is over: OFFLINE, unless the device was heard around them."""
    redis = get_redis_connection("default")
    at = presence.redis_now()
    waiting = redis.zrangebyscore(scripts.WAITING_WILLS, "-inf", at, start=0, num=limit, withscores=True)
    by_schema: dict[str, list[presence.Heard]] = {}
    for member, decide_at in waiting:
        schema, text, device_id, will_at = member.decode().split(":")
        uuid, grace = UUID(text), decide_at - float(will_at)
        seen = presence.last_seen([uuid]).get(uuid)
        if seen is None or seen <= float(will_at) - grace:
            signal = Signal("will", datetime.fromtimestamp(float(will_at), UTC))
            by_schema.setdefault(schema, []).append((int(device_id), uuid, signal))
    for schema in _existing(by_schema):
        presence.apply_heard(schema, by_schema[schema], datetime.fromtimestamp(at, UTC))
    if waiting:
        redis.zrem(scripts.WAITING_WILLS, *(member for member, _ in waiting))
    return len(waiting)


def reanchor() -> int:
    """Give every device its whole time-out from now. Returns how many devices."""
    redis = get_redis_connection("default")
    keys = (scripts.LISTENING, scripts.DEADLINE, scripts.LAST_SEEN, scripts.TIMEOUT)
    total = int(redis.zcard(scripts.DEADLINE))
    # The deadlines lie in the future of the new clock: moved, they keep to the ranks that are done.
    for start in range(0, max(total, 1), _CHUNK):
        redis.eval(scripts.REANCHOR, len(keys), *keys, start, start + _CHUNK - 1)
    return total


def reconcile() -> int:
    """Rebuild Redis from PostgreSQL: ONLINE devices without a deadline get one. Returns how many were missing.

    A device that still reports has its deadline from its next message; one that does not is found by this one.
    """
    leave_schema()
    missing = 0
    for schema in Tenant.objects.filter(state=Tenant.State.ACTIVE).values_list("schema_name", flat=True):
        with schema_context(schema):
            online = Device.objects.filter(active=True, presence__status=DeviceStatus.Status.ONLINE)
            timeouts = timeouts_of(online)
            seen = dict(online.values_list("uuid", "presence__last_seen_at"))
        missing += _give_deadlines(schema, timeouts)
        _restore_last_seen(seen)
    get_redis_connection("default").set(scripts.MARKER, 1)
    if missing:
        logger.warning("%d devices that are ONLINE had no deadline in Redis and got one", missing)
    return missing


def _give_deadlines(schema: str, timeouts: dict[UUID, float]) -> int:
    redis = get_redis_connection("default")
    given, rows = 0, [(f"{schema}:{uuid}", timeout) for uuid, timeout in timeouts.items()]
    for start in range(0, len(rows), _CHUNK):
        arguments = [part for row in rows[start : start + _CHUNK] for part in row]
        given += int(redis.eval(scripts.GIVE_DEADLINES, 2, scripts.DEADLINE, scripts.TIMEOUT, *arguments))
    return given


def _restore_last_seen(seen: dict[UUID, datetime | None]) -> None:
    scores = {str(uuid): at.timestamp() for uuid, at in seen.items() if at is not None}
    if scores:
        get_redis_connection("default").zadd(scripts.LAST_SEEN, scores, nx=True)


def _end_leases(expired: Expired, still_online: Sequence[str]) -> None:
    """A device that stayed ONLINE was seen meanwhile and has a deadline; should it have none, it gets one."""
    if not expired.members:
        return
    redis = get_redis_connection("default")
    if still_online:
        deadlines = dict.fromkeys(still_online, expired.now + scripts.LEASE_SECONDS)
        redis.zadd(scripts.DEADLINE, deadlines, nx=True)
    redis.zrem(scripts.EXPIRING, *expired.members)


def _existing(schemas: Collection[str]) -> list[str]:
    """Those of the schemas whose tenants are still there."""
    if not schemas:
        return []
    leave_schema()
    return list(Tenant.objects.filter(schema_name__in=schemas).values_list("schema_name", flat=True))


def _ids_of(schema: str, uuids: Sequence[UUID]) -> dict[UUID, int]:
    with schema_context(schema):
        return dict(Device.objects.filter(uuid__in=uuids, presence__isnull=False).values_list("uuid", "id"))
