"""Step 8, presence: events of a listener's batches, written to Redis and, where a state changes, to PostgreSQL.

Redis has when each device was last seen and its deadline, at which silence becomes a timeout; PostgreSQL has the
state. A device without a deadline in Redis (it never reported, it timed out, or Redis lost it) has its state set in
PostgreSQL by its next event; all other events cost PostgreSQL nothing.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import django.db
import orjson
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from devices.services.presence.redis_time import ClockOffset
from devices.services.presence.state_machine import ROUNDING, PresenceState, Signal
from devices.services.presence.state_store import apply_signals
from tenants.infrastructure.retry import first_line, is_database_lost, is_lock_conflict

from . import redis_scripts as scripts

logger = logging.getLogger(__name__)

_EPOCH = datetime.fromtimestamp(0, UTC)

DeviceKey = tuple[str, int]  # schema, id
EventKind = Literal["birth", "telemetry", "will"]
DeviceSignal = tuple[int, UUID, Signal]  # device id, UUID, signal


@dataclass(slots=True)  # not frozen: one for each message, and a frozen one is three times as expensive
class PresenceEvent:
    """A birth, live telemetry, or a will of a device.

    `at` is when the server received it; `session_at` is a birth's own time, None where its clock is wrong; `timeout`
    in seconds.
    """

    kind: EventKind
    schema: str
    device_id: int
    uuid: UUID
    at: datetime
    timeout: float
    session: str = ""
    session_at: datetime | None = None

    @property
    def device(self) -> DeviceKey:
        """Return the key of the device: schema and id, because a UUID is hashed by a function in Python."""
        return self.schema, self.device_id


class PresenceRecorder:
    """Records the presence events of a listener's batches. Not shared between threads."""

    def __init__(self, *, grace_seconds: float, flush_seconds: float = 0.0) -> None:
        """Keep events of devices that are known to be ONLINE for at most `flush_seconds`, to send them together."""
        self._grace = grace_seconds
        self._flush_seconds = flush_seconds
        self._flush_at = 0.0
        # Devices whose state this process has set or found ONLINE. After a start every state is set once more:
        # the previous process may have died between Redis and PostgreSQL.
        self._confirmed: dict[str, bytearray] = {}  # by schema, a byte for each device id: fleets are large
        # Events that are not in Redis yet: they wait to be sent together, or Redis is unavailable.
        self._unsent: dict[DeviceKey, PresenceEvent] = {}
        self._clock: ClockOffset | None = None  # of Redis' clock; None before the first request

    def record(self, events: Sequence[PresenceEvent]) -> dict[str, str]:
        """Update the states by the events. Return the schemas whose events are lost: those with locked tables, and
        those with faulty ones, with the error.

        Raises the errors of a lost database; the caller must then record the events again.
        """
        is_urgent = False
        for event in events:
            if event.kind != "will":
                device = event.device
                known = self._unsent.get(device)
                if known is None or known.at <= event.at:
                    self._unsent[device] = event
            is_urgent = is_urgent or event.kind != "telemetry" or not self._is_confirmed(event)
        if not is_urgent and time.monotonic() < self._flush_at:
            return {}
        return self._flush([event for event in events if event.kind != "telemetry"])

    def flush(self, *, now: bool = False) -> dict[str, str]:
        """Send the events in memory, when due or, with `now`, at once. Returns and raises as `record` does."""
        if now:
            self._flush_at = 0.0
        return self.record(()) if self._unsent else {}

    def _flush(self, transitions: Sequence[PresenceEvent]) -> dict[str, str]:
        """Send the events in memory; `transitions` are births and wills, which always go to PostgreSQL."""
        self._flush_at = time.monotonic() + self._flush_seconds
        waiting = self._unsent.copy()
        new = self._write_activity()
        # Of telemetry only the newest event of a device that is not known to be ONLINE.
        unconfirmed = [
            event
            for device, event in waiting.items()
            if event.kind == "telemetry" and (device in new or not self._is_confirmed(event))
        ]
        blocked, absent = self._apply([*transitions, *unconfirmed])
        for schema, device_id in waiting:
            self._confirm(schema, device_id)
        # An old event that is redelivered after the will, or after the timeout, does not make its device ONLINE.
        for schema, device_id in absent | {
            (event.schema, event.device_id) for event in transitions if event.kind == "will"
        }:
            self._unconfirm(schema, device_id)
        for schema in blocked:
            self._confirmed.pop(schema, None)
        return blocked

    def _is_confirmed(self, event: PresenceEvent) -> bool:
        flags = self._confirmed.get(event.schema, b"")
        return event.device_id < len(flags) and bool(flags[event.device_id])

    def _confirm(self, schema: str, device_id: int) -> None:
        flags = self._confirmed.setdefault(schema, bytearray())
        if device_id >= len(flags):
            flags.extend(bytes(device_id + 1024 - len(flags)))
        flags[device_id] = True

    def _unconfirm(self, schema: str, device_id: int) -> None:
        flags = self._confirmed.get(schema)
        if flags is not None and device_id < len(flags):
            flags[device_id] = False

    def _write_activity(self) -> set[DeviceKey]:
        """Write the events to Redis. Return the devices that had no deadline; none while Redis is unavailable."""
        if not self._unsent:
            return set()
        events = list(self._unsent.values())
        keys = (scripts.LISTENING, scripts.LAST_SEEN, scripts.DEADLINE, scripts.TIMEOUT)
        try:
            clock = self._clock or _measure_clock()
            sent_at = datetime.now(UTC)
            epoch = _EPOCH - clock.ahead  # of our clock
            arguments: list[str | float] = [(sent_at - epoch).total_seconds()]
            for event in events:
                seen = (event.at - epoch).total_seconds()
                arguments += [str(event.uuid), f"{event.schema}:{event.uuid}", seen, event.timeout]
            answer = get_redis_connection("default").eval(
                scripts.WRITE_ACTIVITY, len(keys), *keys, orjson.dumps(arguments)
            )
        except RedisError as error:
            logger.warning("Redis is unavailable (%s): activity of %d devices is kept in memory", error, len(events))
            return set()
        _observe(clock, float(answer[0]), sent_at)
        self._clock = clock
        self._unsent.clear()
        return {event.device for event, flag in zip(events, answer[1:], strict=True) if flag}

    @property
    def _ahead(self) -> timedelta:
        return self._clock.ahead if self._clock else timedelta()

    def _apply(self, events: Sequence[PresenceEvent]) -> tuple[dict[str, str], set[tuple[str, int]]]:
        """Return the blocked schemas as `record` does, and the devices (schema, id) that are not ONLINE afterwards."""
        by_schema: dict[str, list[DeviceSignal]] = {}
        ahead = self._ahead
        for event in events:
            if event.kind != "will" or event.session or not self._defer_will(event):
                signal = Signal(event.kind, event.at + ahead, event.session, event.session_at)
                by_schema.setdefault(event.schema, []).append((event.device_id, event.uuid, signal))
        blocked: dict[str, str] = {}
        absent: set[tuple[str, int]] = set()
        for schema, device_signals in by_schema.items():
            try:
                absent |= {
                    (schema, key) for key in apply_device_signals(schema, device_signals, datetime.now(UTC) + ahead)
                }
            except django.db.Error as error:
                if is_database_lost(error):
                    raise
                blocked[schema] = "" if is_lock_conflict(error) else first_line(error)
        return blocked, absent

    def _defer_will(self, will: PresenceEvent) -> bool:
        """Queue a will of old firmware until its grace is over, when telemetry before and after it is known."""
        at = will.at.timestamp() + self._ahead.total_seconds()
        member = f"{will.schema}:{will.uuid}:{will.device_id}:{at:.6f}"
        try:
            get_redis_connection("default").zadd(scripts.PENDING_WILLS, {member: at + self._grace})
        except RedisError:
            return False
        return True


def _measure_clock() -> ClockOffset:
    """Return the offset of Redis' clock by a request of its own. Raises RedisError."""
    clock, sent_at = ClockOffset(), datetime.now(UTC)
    _observe(clock, redis_now(), sent_at)
    return clock


def _observe(clock: ClockOffset, redis_time: float, sent_at: datetime) -> None:
    at = datetime.fromtimestamp(redis_time, UTC)
    clock.observe(at - datetime.now(UTC), at - sent_at)


def apply_device_signals(schema: str, device_signals: Sequence[DeviceSignal], now: datetime) -> set[int]:
    """Apply signals, wills among them. Return the ids of the devices that are not ONLINE after them.

    Telemetry of devices known to be ONLINE is in Redis alone. Redis is therefore read before and after a will is
    applied, so that a will never outranks newer activity, whichever listener received it. A device that is not ONLINE
    has no deadline, even if an old event was redelivered: its next event sets its state.
    """
    devices = {device_id: uuid for device_id, uuid, _ in device_signals}
    wills = {device_id: uuid for device_id, uuid, signal in device_signals if signal.kind == "will"}
    earlier = _activity_signals(wills)
    applied = apply_signals(schema, [*earlier, *((device_id, signal) for device_id, _, signal in device_signals)], now)
    states = applied.states
    # Those of children of a gateway were removed with its transition.
    absent = {key for key, state in states.items() if state.status != "ONLINE" and key in devices}
    drop_deadlines(f"{schema}:{devices[key]}" for key in absent)
    later = [
        (device_id, signal)
        for device_id, signal in _activity_signals({key: devices[key] for key in absent})
        if (ended_at := _contrary_evidence_at(states[device_id])) is not None and signal.at > ended_at
    ]
    if later:
        # DeviceSignal between our question and our answer, by a listener that found the deadline still there.
        again = apply_signals(schema, later, now).states
        online = {device_id for device_id, state in again.items() if state.status == "ONLINE"}
        _restore_deadlines(schema, [devices[device_id] for device_id in online])
        absent -= online
    return absent


def _activity_signals(devices: dict[int, UUID]) -> list[tuple[int, Signal]]:
    seen = last_seen(devices.values())
    return [
        (device_id, Signal("telemetry", datetime.fromtimestamp(seen[uuid], UTC)))
        for device_id, uuid in devices.items()
        if uuid in seen
    ]


def _contrary_evidence_at(state: PresenceState) -> datetime | None:
    """Return the time that activity must be newer than to make the device ONLINE; None where no activity can."""
    if state.status == "OFFLINE":
        return state.will_at
    if state.status == "TIMEOUT" and state.last_seen_at is not None:
        return state.last_seen_at + ROUNDING
    if state.is_hidden:
        return state.gateway_gone_at
    return None


def _restore_deadlines(schema: str, uuids: Sequence[UUID]) -> None:
    try:
        redis = get_redis_connection("default")
        deadline = redis_now() + scripts.LEASE_SECONDS
        redis.zadd(scripts.DEADLINE, {f"{schema}:{uuid}": deadline for uuid in uuids}, nx=True)
    except RedisError as error:
        logger.warning(
            "Redis is unavailable (%s): %d devices get their deadline with their next message", error, len(uuids)
        )


def drop_deadlines(members: Iterable[str]) -> None:
    """Remove the deadlines of the devices (schema:UUID). An unavailable Redis is logged, not raised."""
    dropped = set(members)
    if not dropped:
        return
    try:
        get_redis_connection("default").zrem(scripts.DEADLINE, *dropped)
    except RedisError as error:
        # The deadline then passes without effect, since the device is not ONLINE.
        logger.warning("Redis is unavailable (%s): deadlines of devices that are not ONLINE remain", error)


def shorten_deadlines(lost: Sequence[tuple[str, UUID, datetime]]) -> int:
    """Shorten the deadlines of devices (schema, UUID, when the broker lost them) that have not reported since.

    Return how many. An unavailable Redis is logged: the present deadlines hold.
    """
    arguments = [part for schema, uuid, at in lost for part in (str(uuid), f"{schema}:{uuid}", at.timestamp())]
    if not arguments:
        return 0
    keys = (scripts.LAST_SEEN, scripts.DEADLINE)
    try:
        redis = get_redis_connection("default")
        return int(redis.eval(scripts.SHORTEN_DEADLINES, len(keys), *keys, scripts.RECONNECT_GRACE_SECONDS, *arguments))
    except RedisError as error:
        logger.warning("Redis is unavailable: %s", error)
        return 0


def record_listener_heartbeat() -> None:
    """Record that a listener receives messages now. An unavailable Redis is logged: no silence counts without it."""
    try:
        get_redis_connection("default").eval(scripts.RECORD_HEARTBEAT, 1, scripts.LISTENING)
    except RedisError as error:
        logger.warning("Redis is unavailable: %s", error)


def suspend_timeouts(schemas: Iterable[str]) -> None:
    """Suspend the timeouts of the tenants' devices for some seconds, since their messages wait for locked tables.

    An unavailable Redis is logged, as in `record_listener_heartbeat`.
    """
    named = list(schemas)
    if not named:
        return
    try:
        get_redis_connection("default").eval(scripts.SUSPEND_TIMEOUTS, 1, scripts.SUSPENDED_TIMEOUTS, *named)
    except RedisError as error:
        logger.warning("Redis is unavailable: %s", error)


def last_seen(uuids: Iterable[UUID]) -> dict[UUID, float]:
    """Return when each device was last seen (Unix time), as far as Redis has it; empty while Redis is unavailable."""
    members = list(uuids)
    if not members:
        return {}
    try:
        scores = get_redis_connection("default").zmscore(scripts.LAST_SEEN, [str(uuid) for uuid in members])
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): 'last seen' is the time of the last transition", error)
        return {}
    return {uuid: score for uuid, score in zip(members, scores, strict=True) if score is not None}


def redis_now() -> float:
    """Return the time of Redis' clock (Unix time), which all evidence is measured by. Raises RedisError."""
    seconds, microseconds = get_redis_connection("default").time()
    return float(seconds) + microseconds / 1e6
