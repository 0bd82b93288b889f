"""Signs of life and wills of a listener's batches → Redis and, where something changes, PostgreSQL.

Redis holds when each device was last seen and when its silence becomes a time-out; PostgreSQL holds the state.
A device whose deadline is not in Redis (it never spoke, it timed out, or Redis lost it) has its state set in
PostgreSQL by its next sign of life; all the other signs of life cost PostgreSQL nothing.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import orjson
from django.db import OperationalError
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from devices.services.presence.state_machine import ROUNDING, Signal, State
from devices.services.presence.state_store import apply_signals
from tenants.infrastructure.retry import is_lock_conflict

from . import redis_scripts as scripts

logger = logging.getLogger(__name__)

Device = tuple[str, int, UUID]  # schema, id, UUID
Heard = tuple[int, UUID, Signal]  # device id, UUID, what it said


@dataclass(slots=True)  # not frozen: there is one for each message, and freezing makes it three times as dear
class Sign:
    """A birth, live telemetry, or a will, of a device.

    `at` is when the server received it; `session_at` is a birth's own time; `timeout` in seconds.
    """

    kind: Literal["birth", "telemetry", "will"]
    schema: str
    device_id: int
    uuid: UUID
    at: datetime
    timeout: float
    session: str = ""
    session_at: datetime | None = None

    @property
    def device(self) -> Device:
        return self.schema, self.device_id, self.uuid


class PresenceRecorder:
    """Records the signs of a listener's batches. Not shared between threads."""

    def __init__(self, *, grace_seconds: float, flush_seconds: float = 0.0) -> None:
        """`flush_seconds`: how long signs of devices known ONLINE may wait here, to be sent together."""
        self._grace = grace_seconds
        self._flush_seconds = flush_seconds
        self._flush_at = 0.0
        # Devices whose state this process has set or found ONLINE. After a start every device is set once more:
        # the process before may have died between Redis and PostgreSQL.
        self._confirmed: dict[str, bytearray] = {}  # by schema, a byte for each device id: fleets are large
        # Signs that Redis has not heard of: they wait for others, or Redis is away.
        self._unsent: dict[Device, Sign] = {}
        # How far Redis' clock is ahead of ours.
        self._ahead = timedelta()

    def record(self, signs: Sequence[Sign]) -> set[str]:
        """Bring states up to date with the signs; the schemas whose tables are locked, whose signs are lost then.

        Raises what a lost database raises; then record them again.
        """
        is_urgent = False
        for sign in signs:
            device = sign.device
            if sign.kind != "will":
                known = self._unsent.get(device)
                if known is None or known.at <= sign.at:
                    self._unsent[device] = sign
            is_urgent = is_urgent or sign.kind != "telemetry" or not self._is_confirmed(sign)
        if not is_urgent and time.monotonic() < self._flush_at:
            return set()
        return self._flush([sign for sign in signs if sign.kind != "telemetry"])

    def flush(self, *, now: bool = False) -> set[str]:
        """Send what waits, when it is due or in any case. Returns and raises as `record` does."""
        if now:
            self._flush_at = 0.0
        return self.record(()) if self._unsent else set()

    def _flush(self, told: Sequence[Sign]) -> set[str]:
        """Send what waits; `told` are births and wills, which PostgreSQL hears of in any case."""
        self._flush_at = time.monotonic() + self._flush_seconds
        waiting = self._unsent.copy()
        new = self._touch()
        # Of telemetry only the newest of a device that is not known ONLINE.
        silent_before = [
            sign
            for device, sign in waiting.items()
            if sign.kind == "telemetry" and (device in new or not self._is_confirmed(sign))
        ]
        busy, absent = self._apply([*told, *silent_before])
        for schema, device_id, _ in waiting:
            self._confirm(schema, device_id)
        # An old sign that comes again after the will, or after the time-out, does not make its device ONLINE.
        for schema, device_id in absent | {(sign.schema, sign.device_id) for sign in told if sign.kind == "will"}:
            self._doubt(schema, device_id)
        for schema in busy:
            self._confirmed.pop(schema, None)
        return busy

    def _is_confirmed(self, sign: Sign) -> bool:
        flags = self._confirmed.get(sign.schema, b"")
        return sign.device_id < len(flags) and bool(flags[sign.device_id])

    def _confirm(self, schema: str, device_id: int) -> None:
        flags = self._confirmed.setdefault(schema, bytearray())
        if device_id >= len(flags):
            flags.extend(bytes(device_id + 1024 - len(flags)))
        flags[device_id] = True

    def _doubt(self, schema: str, device_id: int) -> None:
        flags = self._confirmed.get(schema)
        if flags is not None and device_id < len(flags):
            flags[device_id] = False

    def _touch(self) -> set[Device]:
        """Write the signs to Redis; the devices whose deadline was not there (none while Redis is away)."""
        if not self._unsent:
            return set()
        signs = list(self._unsent.values())
        asked = datetime.now(UTC)
        arguments: list[str | float] = []
        for sign in signs:
            age = max(0.0, (asked - sign.at).total_seconds())
            arguments += [str(sign.uuid), f"{sign.schema}:{sign.uuid}", age, sign.timeout]
        keys = (scripts.LISTENING, scripts.LAST_SEEN, scripts.DEADLINE, scripts.TIMEOUT)
        try:
            answer = get_redis_connection("default").eval(scripts.TOUCH, len(keys), *keys, orjson.dumps(arguments))
        except RedisError as error:
            logger.warning("Redis is away (%s): signs of life of %d devices are kept here", error, len(signs))
            return set()
        self._ahead = datetime.fromtimestamp(float(answer[0]), UTC) - asked
        self._unsent.clear()
        return {sign.device for sign, flag in zip(signs, answer[1:], strict=True) if flag}

    def _apply(self, signs: Sequence[Sign]) -> tuple[set[str], set[tuple[str, int]]]:
        """The schemas that are busy, because somebody has locked their tables; the devices (schema, id) that are not
        ONLINE after all."""
        by_schema: dict[str, list[Heard]] = {}
        for sign in signs:
            if sign.kind != "will" or sign.session or not self._let_wait(sign):
                signal = Signal(sign.kind, sign.at + self._ahead, sign.session, sign.session_at)
                by_schema.setdefault(sign.schema, []).append((sign.device_id, sign.uuid, signal))
        busy, absent = set(), set()
        for schema, heard in by_schema.items():
            try:
                absent |= {(schema, key) for key in apply_heard(schema, heard, datetime.now(UTC) + self._ahead)}
            except OperationalError as error:
                if not is_lock_conflict(error):
                    raise
                busy.add(schema)
        return busy, absent

    def _let_wait(self, will: Sign) -> bool:
        """Old firmware's will: decided after the grace, when telemetry on either side of it is known."""
        at = will.at.timestamp() + self._ahead.total_seconds()
        member = f"{will.schema}:{will.uuid}:{will.device_id}:{at:.6f}"
        try:
            get_redis_connection("default").zadd(scripts.WAITING_WILLS, {member: at + self._grace})
        except RedisError:
            return False
        return True


def apply_heard(schema: str, heard: Sequence[Heard], now: datetime) -> set[int]:
    """Apply signals of which some may be wills. Returns the devices that are not ONLINE after them.

    Telemetry of devices that are known ONLINE is in Redis alone; before a will and after it Redis is asked, so
    that a will never outranks a sign of life that came later, whichever listener heard it. What is not ONLINE has no
    deadline, whatever old sign of it came again: its next sign of life then sets its state.
    """
    devices = {device_id: uuid for device_id, uuid, _ in heard}
    wills = {device_id: uuid for device_id, uuid, signal in heard if signal.kind == "will"}
    earlier = _seen_as_signals(wills)
    states = apply_signals(schema, [*earlier, *((device_id, signal) for device_id, _, signal in heard)], now).states
    absent = {key for key, state in states.items() if state.status != "ONLINE"}
    drop_deadlines(f"{schema}:{devices[key]}" for key in absent)
    later = [
        (device_id, signal)
        for device_id, signal in _seen_as_signals({key: devices[key] for key in absent})
        if (ended_at := _ended_at(states[device_id])) is not None and signal.at > ended_at
    ]
    if later:
        # Heard between our question and our answer, by a listener that found the deadline still there.
        again = apply_signals(schema, later, now).states
        online = {device_id for device_id, state in again.items() if state.status == "ONLINE"}
        _return_deadlines(schema, [devices[device_id] for device_id in online])
        absent -= online
    return absent


def _seen_as_signals(devices: dict[int, UUID]) -> list[tuple[int, Signal]]:
    seen = last_seen(devices.values())
    return [
        (device_id, Signal("telemetry", datetime.fromtimestamp(seen[uuid], UTC)))
        for device_id, uuid in devices.items()
        if uuid in seen
    ]


def _ended_at(state: State) -> datetime | None:
    """What a sign of life must be newer than to say that the device is there again; None: no such sign would say it."""
    if state.status == "OFFLINE":
        return state.will_at
    if state.status == "TIMEOUT" and state.last_seen_at is not None:
        return state.last_seen_at + ROUNDING
    return None


def _return_deadlines(schema: str, uuids: Sequence[UUID]) -> None:
    try:
        redis = get_redis_connection("default")
        deadline = redis_now() + scripts.LEASE_SECONDS
        redis.zadd(scripts.DEADLINE, {f"{schema}:{uuid}": deadline for uuid in uuids}, nx=True)
    except RedisError as error:
        logger.warning("Redis is away (%s): %d devices get their deadline with their next message", error, len(uuids))


def drop_deadlines(members: Iterable[str]) -> None:
    """Devices (schema:UUID) whose silence says nothing any more. Redis being away is logged, not raised."""
    dropped = set(members)
    if not dropped:
        return
    try:
        get_redis_connection("default").zrem(scripts.DEADLINE, *dropped)
    except RedisError as error:
        # The deadline passes then, and finds that the device is not ONLINE.
        logger.warning("Redis is away (%s): deadlines of devices that are gone stay", error)


def expect_soon(lost: Sequence[tuple[str, UUID, datetime]]) -> int:
    """Bring near the deadlines of devices (schema, UUID, when the broker lost it) that were not heard since.

    Returns how many. Redis being away is no error: the deadlines that are there hold.
    """
    arguments = [part for schema, uuid, at in lost for part in (str(uuid), f"{schema}:{uuid}", at.timestamp())]
    if not arguments:
        return 0
    keys = (scripts.LAST_SEEN, scripts.DEADLINE)
    try:
        redis = get_redis_connection("default")
        return int(redis.eval(scripts.EXPECT_SOON, len(keys), *keys, scripts.HINT_GRACE_SECONDS, *arguments))
    except RedisError as error:
        logger.warning("Redis is away: %s", error)
        return 0


def note_listening() -> None:
    """A listener hears devices at this moment. Redis being away is no error: then nobody counts silence either."""
    try:
        get_redis_connection("default").eval(scripts.NOTE_LISTENING, 1, scripts.LISTENING)
    except RedisError as error:
        logger.warning("Redis is away: %s", error)


def note_unheard(schemas: Iterable[str]) -> None:
    """Messages of these tenants wait for locked tables, so that for some seconds their devices' silence says nothing.

    Redis being away is no error, as with `note_listening`.
    """
    named = list(schemas)
    if not named:
        return
    try:
        get_redis_connection("default").eval(scripts.NOTE_UNHEARD, 1, scripts.UNHEARD, *named)
    except RedisError as error:
        logger.warning("Redis is away: %s", error)


def last_seen(uuids: Iterable[UUID]) -> dict[UUID, float]:
    """When each device was last seen (Unix time), as far as Redis knows; empty while Redis is away."""
    members = list(uuids)
    if not members:
        return {}
    try:
        scores = get_redis_connection("default").zmscore(scripts.LAST_SEEN, [str(uuid) for uuid in members])
    except RedisError as error:
        logger.warning("Redis is away (%s): last seen is as of the last transition", error)
        return {}
    return {uuid: score for uuid, score in zip(members, scores, strict=True) if score is not None}


def redis_now() -> float:
    """Redis' clock, which all evidence is measured by (Unix time). Raises RedisError."""
    seconds, microseconds = get_redis_connection("default").time()
    return float(seconds) + microseconds / 1e6
