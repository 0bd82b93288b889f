"""The health checker's steps: devices whose deadline passed become TIMEOUT. Any number of checkers may run.

An expired deadline is moved to a second set with a lease before PostgreSQL is asked: a sign of life that comes
meanwhile finds no deadline and so sets the state itself; a checker that dies leaves the lease to the next.
A pass over nothing expired asks Redis and touches no row, however many devices there are.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import orjson
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.models import Device, DeviceStatus
from devices.services.presence.state_machine import ROUNDING, Signal, State
from devices.services.presence.state_store import apply_signals, states_of
from devices.services.presence.timeouts import timeouts_of
from tenants.infrastructure.chunks import chunks
from tenants.infrastructure.schema_context import leave_schema
from tenants.models import Tenant

from . import activity
from . import redis_scripts as scripts

logger = logging.getLogger(__name__)

_CHUNK = 5000


class Taken(NamedTuple):
    """A device whose deadline was taken. `heard`: it spoke while a checker that died held it."""

    schema: str
    uuid: UUID
    seen: float
    heard: bool


@dataclass(frozen=True, slots=True)
class Expired:
    """Deadlines that were taken, leased to this checker, by member (schema:UUID)."""

    now: float
    overdue_seconds: float = 0.0
    members: dict[str, Taken] = field(default_factory=dict)
    obstacle: str = ""  # deaf: nobody listens; stepped: the clock was set back


@dataclass(frozen=True, slots=True)
class Silenced:
    """The devices that were taken, by member, after their silence was counted; those that are gone are not there."""

    states: dict[str, tuple[int, State]] = field(default_factory=dict)  # device id, state
    timed_out: int = 0


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
    for member, seen, heard in zip(answer[3::3], answer[4::3], answer[5::3], strict=True):
        schema, uuid = member.decode().split(":", 1)
        members[member.decode()] = Taken(schema, UUID(uuid), float(seen or now), bool(heard))
    return Expired(now, float(answer[2]), members)


def settle(expired: Expired) -> int:
    """TIMEOUT for the devices that are ONLINE and were not seen since; then the leases end. Returns how many."""
    silenced = count_silence(expired)
    end_leases(expired, silenced)
    return silenced.timed_out


def count_silence(expired: Expired) -> Silenced:
    """The first step of `settle`: PostgreSQL hears that they are silent. A checker that dies after it is no harm."""
    by_schema: dict[str, list[Taken]] = {}
    for taken in expired.members.values():
        by_schema.setdefault(taken.schema, []).append(taken)
    states: dict[str, tuple[int, State]] = {}
    timed_out = 0
    for schema in _existing(by_schema):
        ids = _ids_of(schema, [taken.uuid for taken in by_schema[schema]])
        signals = [
            (ids[taken.uuid], Signal("silence", datetime.fromtimestamp(taken.seen, UTC)))
            for taken in by_schema[schema]
            if taken.uuid in ids and not taken.heard
        ]
        applied = apply_signals(schema, signals, datetime.fromtimestamp(expired.now, UTC))
        timed_out += len(applied.changes)
        known = states_of(schema, [ids[taken.uuid] for taken in by_schema[schema] if taken.uuid in ids and taken.heard])
        known |= applied.states
        states |= {f"{schema}:{uuid}": (key, known[key]) for uuid, key in ids.items() if key in known}
    return Silenced(states, timed_out)


def end_leases(expired: Expired, silenced: Silenced) -> None:
    """The second step of `settle`. A device that is called silent and was heard since is ONLINE.

    Such a sign of life may have found a deadline, which an older one that was delivered again had put back: then the
    listener has not told PostgreSQL. So that none falls between, Redis looks for it in the step that ends the lease.
    """
    states, left = dict(silenced.states), list(expired.members)
    while heard := _end_leases(expired, left, states):
        by_schema: dict[str, list[tuple[int, Signal]]] = {}
        for member, at in heard.items():
            signal = Signal("telemetry", datetime.fromtimestamp(at, UTC))
            by_schema.setdefault(expired.members[member].schema, []).append((states[member][0], signal))
        now = datetime.fromtimestamp(max(expired.now, *heard.values()), UTC)
        applied = {schema: apply_signals(schema, signals, now).states for schema, signals in by_schema.items()}
        left = list(heard)
        for member in left:
            key, _ = states.pop(member)
            if (state := applied[expired.members[member].schema].get(key)) is not None:
                states[member] = key, state


def decide_waiting_wills(limit: int) -> int:
    """Wills without a session whose grace is over: OFFLINE, unless the device was heard around them."""
    redis = get_redis_connection("default")
    at = activity.redis_now()
    waiting = redis.zrangebyscore(scripts.WAITING_WILLS, "-inf", at, start=0, num=limit, withscores=True)
    by_schema: dict[str, list[activity.Heard]] = {}
    for member, decide_at in waiting:
        schema, text, device_id, will_at = member.decode().split(":")
        uuid, grace = UUID(text), decide_at - float(will_at)
        seen = activity.last_seen([uuid]).get(uuid)
        if seen is None or seen <= float(will_at) - grace:
            signal = Signal("will", datetime.fromtimestamp(float(will_at), UTC))
            by_schema.setdefault(schema, []).append((int(device_id), uuid, signal))
    for schema in _existing(by_schema):
        activity.apply_heard(schema, by_schema[schema], datetime.fromtimestamp(at, UTC))
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
    for chunk in chunks(rows, _CHUNK):
        arguments = [part for row in chunk for part in row]
        given += int(redis.eval(scripts.GIVE_DEADLINES, 2, scripts.DEADLINE, scripts.TIMEOUT, *arguments))
    return given


def _restore_last_seen(seen: dict[UUID, datetime | None]) -> None:
    scores = {str(uuid): at.timestamp() for uuid, at in seen.items() if at is not None}
    if scores:
        get_redis_connection("default").zadd(scripts.LAST_SEEN, scores, nx=True)


def _end_leases(expired: Expired, members: Sequence[str], states: Mapping[str, tuple[int, State]]) -> dict[str, float]:
    """End the leases, but of devices that are TIMEOUT and were heard since: those, and when that was."""
    if not members:
        return {}
    until = expired.now + scripts.LEASE_SECONDS
    arguments: list[str | float] = []
    for member in members:
        state = states[member][1] if member in states else State()
        at = until
        if state.status == DeviceStatus.Status.TIMEOUT:
            at = (state.last_seen_at + ROUNDING).timestamp() if state.last_seen_at else 0.0
        arguments += [str(expired.members[member].uuid), member, state.status, at]
    keys = (scripts.EXPIRING, scripts.DEADLINE, scripts.LAST_SEEN)
    redis = get_redis_connection("default")
    answer = redis.eval(scripts.END_LEASES, len(keys), *keys, until, orjson.dumps(arguments))
    return {member.decode(): float(at) for member, at in zip(answer[::2], answer[1::2], strict=True)}


def _existing(schemas: Collection[str]) -> list[str]:
    """Those of the schemas whose tenants are still there."""
    if not schemas:
        return []
    leave_schema()
    return list(Tenant.objects.filter(schema_name__in=schemas).values_list("schema_name", flat=True))


def _ids_of(schema: str, uuids: Sequence[UUID]) -> dict[UUID, int]:
    with schema_context(schema):
        return dict(Device.objects.filter(uuid__in=uuids, presence__isnull=False).values_list("uuid", "id"))
