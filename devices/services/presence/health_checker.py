"""The steps of the health checker: devices whose deadline has passed become TIMEOUT. Any number of checkers may run.

An expired deadline is moved to a second set with a lease before PostgreSQL is read. Activity in the meantime finds no
deadline and so sets the state itself; if a checker dies, the next one takes over its leases.
A pass without expired deadlines reads Redis and no row, for any number of devices.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import orjson
from django.conf import settings
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.models import Device, DeviceStatus
from devices.services.presence.state_machine import ROUNDING, PresenceState, Signal
from devices.services.presence.state_store import apply_signals, states_of
from devices.services.presence.timeouts import timeouts_of
from tenants.infrastructure.chunks import chunks
from tenants.infrastructure.database import current_schema, leave_schema
from tenants.models import Tenant
from tenants.services.tenant_rounds import visit_each

from . import activity, gateways
from . import redis_scripts as scripts

logger = logging.getLogger(__name__)

_CHUNK = 5000
# Wills of a tenant that is locked or faulty are decided so much later.
_FAILED_SECONDS = 10.0


class LeasedDeadline(NamedTuple):
    """A device whose deadline is leased. `active_again`: it reported while a checker that died had the lease."""

    schema: str
    uuid: UUID
    seen: float
    active_again: bool


@dataclass(frozen=True, slots=True)
class LeasedDeadlines:
    """Expired deadlines, leased to this checker, by member (schema:UUID)."""

    now: float
    overdue_seconds: float = 0.0
    members: dict[str, LeasedDeadline] = field(default_factory=dict)
    obstacle: str = ""  # no_listener, clock_skew, or none


@dataclass(frozen=True, slots=True)
class SilenceResult:
    """The states of the leased devices by member, after their silence was applied; removed devices are missing."""

    states: dict[str, tuple[int, PresenceState]] = field(default_factory=dict)  # device id, state
    timed_out: int = 0
    # Schemas that are locked or faulty: the leases of their devices are kept until they end, and taken again.
    failed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a pass. `overdue_seconds`: how long ago the oldest of the deadlines had passed."""

    expired: int = 0
    timed_out: int = 0
    wills: int = 0
    overdue_seconds: float = 0.0
    obstacle: str = ""


def check(limit: int = 2000) -> CheckResult:
    """Run one pass. Raises the errors of a lost Redis or database; the leases then expire and are taken again."""
    if get_redis_connection("default").set(scripts.MARKER, 1, nx=True):
        reconcile()
    expired = lease_expired(limit)
    if expired.obstacle == "clock_skew":
        logger.warning("The clock was set back: %d devices get their whole timeout from now on", restart_timeouts())
    return CheckResult(
        expired=len(expired.members),
        timed_out=apply_timeouts(expired),
        wills=decide_pending_wills(limit) + (0 if expired.obstacle else decide_pending_returns(limit)),
        overdue_seconds=expired.overdue_seconds,
        obstacle=expired.obstacle,
    )


def lease_expired(limit: int) -> LeasedDeadlines:
    """Lease up to `limit` expired deadlines to this checker."""
    keys = (
        scripts.LISTENING,
        scripts.DEADLINE,
        scripts.EXPIRING,
        scripts.LAST_SEEN,
        scripts.TIMEOUT,
        scripts.SUSPENDED_TIMEOUTS,
    )
    answer = get_redis_connection("default").eval(scripts.LEASE_EXPIRED, len(keys), *keys, limit)
    now, obstacle = float(answer[0]), answer[1].decode()
    if obstacle:
        return LeasedDeadlines(now, obstacle=obstacle)
    members = {}
    for member, seen, active_again in zip(answer[3::3], answer[4::3], answer[5::3], strict=True):
        schema, uuid = member.decode().split(":", 1)
        members[member.decode()] = LeasedDeadline(schema, UUID(uuid), float(seen or now), bool(active_again))
    return LeasedDeadlines(now, float(answer[2]), members)


def apply_timeouts(expired: LeasedDeadlines) -> int:
    """Set TIMEOUT for ONLINE devices without newer activity, and release the leases. Return how many timed out."""
    result = apply_silence(expired)
    release_leases(expired, result)
    return result.timed_out


def apply_silence(expired: LeasedDeadlines) -> SilenceResult:
    """Apply the silence to PostgreSQL: the first step of `apply_timeouts`. A checker may die after it without harm."""
    by_schema: dict[str, list[LeasedDeadline]] = {}
    for taken in expired.members.values():
        by_schema.setdefault(taken.schema, []).append(taken)
    states: dict[str, tuple[int, PresenceState]] = {}

    def apply() -> int:
        schema = current_schema()
        ids = _ids_of(schema, [taken.uuid for taken in by_schema[schema]])
        signals = [
            (ids[taken.uuid], Signal("silence", datetime.fromtimestamp(taken.seen, UTC)))
            for taken in by_schema[schema]
            if taken.uuid in ids and not taken.active_again
        ]
        applied = apply_signals(schema, signals, datetime.fromtimestamp(expired.now, UTC))
        known = states_of(
            schema, [ids[taken.uuid] for taken in by_schema[schema] if taken.uuid in ids and taken.active_again]
        )
        known |= applied.states
        states.update({f"{schema}:{uuid}": (key, known[key]) for uuid, key in ids.items() if key in known})
        return sum(change.new == DeviceStatus.Status.TIMEOUT for _, change in applied.changes)

    done = visit_each("presence", _existing_schemas(by_schema), apply)
    return SilenceResult(states, sum(done.results.values()), frozenset(done.failures))


def release_leases(expired: LeasedDeadlines, result: SilenceResult) -> None:
    """Release the leases: the second step of `apply_timeouts`. A device that timed out and is active again becomes
    ONLINE.

    Such activity may have found a deadline that a redelivered older event had restored; then the listener has not
    updated PostgreSQL. The script that releases the lease therefore compares the time of the last activity.
    """
    states = dict(result.states)
    left = [member for member, taken in expired.members.items() if taken.schema not in result.failed]
    while active_again := _release_leases(expired, left, states):
        by_schema: dict[str, list[tuple[int, Signal]]] = {}
        for member, at in active_again.items():
            signal = Signal("telemetry", datetime.fromtimestamp(at, UTC))
            by_schema.setdefault(expired.members[member].schema, []).append((states[member][0], signal))
        now = datetime.fromtimestamp(max(expired.now, *active_again.values()), UTC)
        applied = {schema: apply_signals(schema, signals, now).states for schema, signals in by_schema.items()}
        left = list(active_again)
        for member in left:
            key, _ = states.pop(member)
            if (state := applied[expired.members[member].schema].get(key)) is not None:
                states[member] = key, state


def decide_pending_wills(limit: int) -> int:
    """Decide wills without a session whose grace is over: OFFLINE, unless the device was active around them."""
    redis = get_redis_connection("default")
    at = activity.redis_now()
    waiting = redis.zrangebyscore(scripts.PENDING_WILLS, "-inf", at, start=0, num=limit, withscores=True)
    by_schema: dict[str, list[activity.DeviceSignal]] = {}
    for member, decide_at in waiting:
        schema, text, device_id, will_at = member.decode().split(":")
        # A will that was postponed has the same grace.
        uuid, grace = UUID(text), min(decide_at - float(will_at), settings.PRESENCE_WILL_GRACE_SECONDS)
        seen = activity.last_seen([uuid]).get(uuid)
        if seen is None or seen <= float(will_at) - grace:
            signal = Signal("will", datetime.fromtimestamp(float(will_at), UTC))
            by_schema.setdefault(schema, []).append((int(device_id), uuid, signal))
    now = datetime.fromtimestamp(at, UTC)
    done = visit_each(
        "wills",
        _existing_schemas(by_schema),
        lambda: activity.apply_device_signals(current_schema(), by_schema[current_schema()], now),
    )
    decided = [member for member, _ in waiting if member.decode().split(":", 1)[0] not in done.failures]
    if decided:
        redis.zrem(scripts.PENDING_WILLS, *decided)
    if postponed := {member for member, _ in waiting}.difference(decided):
        # Behind those that are due, whose tenants are neither locked nor faulty.
        redis.zadd(scripts.PENDING_WILLS, dict.fromkeys(postponed, at + _FAILED_SECONDS))
    return len(decided)


def decide_pending_returns(limit: int) -> int:
    """Decide devices that have not reported for their timeout since their gateway is back: TIMEOUT.

    A device without a listener for part of that time gets the part again.
    """
    redis = get_redis_connection("default")
    at = activity.redis_now()
    waiting = redis.zrangebyscore(scripts.PENDING_RETURNS, "-inf", at, start=0, num=limit)
    if not waiting:
        return 0
    since = float(redis.hget(scripts.LISTENING, "since") or 0)
    timeouts = redis.hmget(scripts.TIMEOUT, [member.rpartition(b":")[0] for member in waiting])
    early = {
        member: since + float(timeout or 0)
        for member, timeout in zip(waiting, timeouts, strict=True)
        if since + float(timeout or 0) > at
    }
    if early:
        redis.zadd(scripts.PENDING_RETURNS, early)
        waiting = [member for member in waiting if member not in early]
    now = datetime.fromtimestamp(at, UTC)
    by_schema: dict[str, list[tuple[int, Signal]]] = {}
    for member in waiting:
        schema, _uuid, device_id = member.decode().split(":")
        by_schema.setdefault(schema, []).append((int(device_id), Signal("gateway_silence", now)))
    done = visit_each(
        "gateways",
        _existing_schemas(by_schema),
        lambda: len(apply_signals(current_schema(), by_schema[current_schema()], now).changes),
    )
    decided = [member for member in waiting if member.decode().split(":", 1)[0] not in done.failures]
    if decided:
        redis.zrem(scripts.PENDING_RETURNS, *decided)
    if postponed := set(waiting).difference(decided):
        redis.zadd(scripts.PENDING_RETURNS, dict.fromkeys(postponed, at + _FAILED_SECONDS))
    return len(decided)


def restart_timeouts() -> int:
    """Restart every device's timeout from now. Return the number of devices."""
    redis = get_redis_connection("default")
    keys = (scripts.LISTENING, scripts.DEADLINE, scripts.LAST_SEEN, scripts.TIMEOUT)
    total = int(redis.zcard(scripts.DEADLINE))
    # The deadlines lie in the future of the new clock: moved, they keep to the ranks that are done.
    for start in range(0, max(total, 1), _CHUNK):
        redis.eval(scripts.RESTART_TIMEOUTS, len(keys), *keys, start, start + _CHUNK - 1)
    return total


def reconcile() -> int:
    """Rebuild Redis from PostgreSQL: add deadlines of ONLINE devices that have none. Return how many were missing.

    A device that still reports has its deadline from its next message; a silent one times out by the new deadline.
    """
    leave_schema()

    def restore() -> int:
        online = Device.objects.filter(active=True, presence__status=DeviceStatus.Status.ONLINE)
        timeouts = timeouts_of(online)
        seen = dict(online.values_list("uuid", "presence__last_seen_at"))
        added = _add_deadlines(current_schema(), timeouts)
        _restore_returns()
        _restore_last_seen(seen)
        return added

    active = Tenant.objects.filter(state=Tenant.State.ACTIVE).values_list("schema_name", flat=True)
    missing = sum(visit_each("reconcile", list(active), restore).results.values())
    get_redis_connection("default").set(scripts.MARKER, 1)
    if missing:
        logger.warning("%d devices that are ONLINE had no deadline in Redis and got one", missing)
    return missing


def _add_deadlines(schema: str, timeouts: dict[UUID, float]) -> int:
    redis = get_redis_connection("default")
    given, rows = 0, [(f"{schema}:{uuid}", timeout) for uuid, timeout in timeouts.items()]
    for chunk in chunks(rows, _CHUNK):
        arguments = [part for row in chunk for part in row]
        given += int(redis.eval(scripts.ADD_DEADLINES, 2, scripts.DEADLINE, scripts.TIMEOUT, *arguments))
    return given


def _restore_returns() -> None:
    """Have the children time out that are unknown although their gateway is back."""
    hidden = Device.objects.filter(
        active=True,
        presence__status=DeviceStatus.Status.UNKNOWN,
        presence__cause=DeviceStatus.Cause.GATEWAY,
        gateway__presence__status=DeviceStatus.Status.ONLINE,
    )
    now = datetime.fromtimestamp(activity.redis_now(), UTC)
    gateways.add_returns(current_schema(), dict(hidden.values_list("uuid", "id")), now, missing_only=True)


def _restore_last_seen(seen: dict[UUID, datetime | None]) -> None:
    scores = {str(uuid): at.timestamp() for uuid, at in seen.items() if at is not None}
    if scores:
        get_redis_connection("default").zadd(scripts.LAST_SEEN, scores, nx=True)


def _release_leases(
    expired: LeasedDeadlines, members: Sequence[str], states: Mapping[str, tuple[int, PresenceState]]
) -> dict[str, float]:
    """Release the leases. Return the devices in TIMEOUT with newer activity, which keep their leases, with its time."""
    if not members:
        return {}
    until = expired.now + scripts.LEASE_SECONDS
    arguments: list[str | float] = []
    for member in members:
        state = states[member][1] if member in states else PresenceState()
        at = until
        if state.status == DeviceStatus.Status.TIMEOUT:
            at = (state.last_seen_at + ROUNDING).timestamp() if state.last_seen_at else 0.0
        arguments += [str(expired.members[member].uuid), member, state.status, at]
    keys = (scripts.EXPIRING, scripts.DEADLINE, scripts.LAST_SEEN)
    redis = get_redis_connection("default")
    answer = redis.eval(scripts.RELEASE_LEASES, len(keys), *keys, until, orjson.dumps(arguments))
    return {member.decode(): float(at) for member, at in zip(answer[::2], answer[1::2], strict=True)}


def _existing_schemas(schemas: Collection[str]) -> list[str]:
    """Return the schemas whose tenants still exist."""
    if not schemas:
        return []
    leave_schema()
    return list(Tenant.objects.filter(schema_name__in=schemas).values_list("schema_name", flat=True))


def _ids_of(schema: str, uuids: Sequence[UUID]) -> dict[UUID, int]:
    with schema_context(schema):
        return dict(Device.objects.filter(uuid__in=uuids, presence__isnull=False).values_list("uuid", "id"))
