"""Gateways and their children: a gateway that is gone or back is a signal for the devices that it speaks for.

Most activity of a device is in Redis alone. So before a gateway's end is applied to its children, their deadlines are
removed and their activity is read: a message before that is seen, and one after it finds no deadline and sets the
state itself. If the transaction then fails, the signal of the gateway comes again.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django_redis import get_redis_connection
from redis.exceptions import RedisError

from devices.services.presence.state_machine import PresenceState, Signal, Transition

from . import redis_scripts as scripts

logger = logging.getLogger(__name__)

# The timeout of a child that Redis does not know.
_USUAL_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Child:
    """A device with a gateway."""

    device_id: int
    uuid: UUID
    gateway_id: int


def children_of(cursor: Any, quoted: str, gateway_ids: Collection[int]) -> list[Child]:
    """Return the active children of these devices; `quoted` is the name of their schema."""
    cursor.execute(
        f"SELECT id, uuid, gateway_id FROM {quoted}.devices_device"  # noqa: S608 (the schema's name is quoted)
        " WHERE gateway_id = ANY(%s) AND active",
        [list(gateway_ids)],
    )
    return [Child(*row) for row in cursor.fetchall()]


def children_of_changes(children: Sequence[Child], changes: Sequence[tuple[int, Transition]]) -> list[Child]:
    """Return the children of devices that have changed."""
    changed = {device_id for device_id, _ in changes}
    return [child for child in children if child.gateway_id in changed]


def signals_of(
    schema: str,
    children: Sequence[Child],
    states: Mapping[int, PresenceState],
    changes: Sequence[tuple[int, Transition]],
    now: datetime,
) -> list[tuple[int, Signal]]:
    """Return the signals for the children of gateways with these transitions and states, in order."""
    last = dict(changes)
    gone = [child for child in children if last[child.gateway_id].new != "ONLINE"]
    signals = _activity_of(schema, gone)
    for child in children:
        kind = "gateway_back" if last[child.gateway_id].new == "ONLINE" else "gateway_gone"
        signals.append((child.device_id, Signal(kind, states[child.gateway_id].since or now)))  # type: ignore[arg-type]
    return signals


def set_deadlines(schema: str, children: Sequence[Child], states: Mapping[int, PresenceState], now: datetime) -> None:
    """Give a deadline to the children that are ONLINE nevertheless, and have the health checker time out those that
    are still unknown a timeout after their gateway is back.
    """
    online, hidden = dict[UUID, int](), dict[UUID, int]()
    for child in children:
        state = states[child.device_id]
        if state.status == "ONLINE":
            online[child.uuid] = child.device_id
        elif state.is_hidden and states[child.gateway_id].status == "ONLINE":
            hidden[child.uuid] = child.device_id
    add_returns(schema, hidden, now)
    if not online:
        return
    try:
        redis = get_redis_connection("default")
        ends = {f"{schema}:{uuid}": now.timestamp() + timeout for uuid, timeout in _timeouts_of(schema, online).items()}
        redis.zadd(scripts.DEADLINE, ends, nx=True)
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): %d devices have no deadline", error, len(online))


def add_returns(schema: str, children: Mapping[UUID, int], back_at: datetime, *, missing_only: bool = False) -> None:
    """Record the children (UUID → id) of gateways that are back. An unavailable Redis is logged: their next message
    sets their state.
    """
    if not children:
        return
    try:
        redis = get_redis_connection("default")
        timeouts = _timeouts_of(schema, children)
        ends = {
            f"{schema}:{uuid}:{device_id}": back_at.timestamp() + timeouts[uuid] for uuid, device_id in children.items()
        }
        redis.zadd(scripts.PENDING_RETURNS, ends, nx=missing_only)
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): %d devices stay unknown until they report", error, len(children))


def _timeouts_of(schema: str, uuids: Collection[UUID]) -> dict[UUID, float]:
    found = get_redis_connection("default").hmget(scripts.TIMEOUT, [f"{schema}:{uuid}" for uuid in uuids])
    return {uuid: float(timeout or _USUAL_TIMEOUT) for uuid, timeout in zip(uuids, found, strict=True)}


def _activity_of(schema: str, children: Sequence[Child]) -> list[tuple[int, Signal]]:
    """Remove the deadlines of the children, and return their last activity."""
    if not children:
        return []
    try:
        redis = get_redis_connection("default")
        redis.zrem(scripts.DEADLINE, *(f"{schema}:{child.uuid}" for child in children))
        seen = redis.zmscore(scripts.LAST_SEEN, [str(child.uuid) for child in children])
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): the last activity of %d devices is unknown", error, len(children))
        return []
    return [
        (child.device_id, Signal("telemetry", datetime.fromtimestamp(at, UTC)))
        for child, at in zip(children, seen, strict=True)
        if at is not None
    ]
