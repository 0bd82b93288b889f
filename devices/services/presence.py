"""Signs of life and wills → states, by compare-and-set, each transition a row of the ledger.

Redis holds when each device was last seen and when its silence becomes a timeout; PostgreSQL holds the state.
A device whose deadline is not in Redis (it never spoke, it timed out, or Redis lost it) has its state set in
PostgreSQL by its next sign of life; all the other signs of life cost PostgreSQL nothing.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from devices.models.presence import Cause, Status

logger = logging.getLogger(__name__)

LAST_SEEN = "device_last_seen"  # member: device UUID, score: server time of the last sign of life
DEADLINE = "device_deadline"  # member: schema:UUID, score: server time at which silence is a timeout

# For each device: seen member, deadline member, time, deadline. Answers which deadlines are new.
_TOUCH = """
local new = {}
for i = 1, #ARGV, 4 do
  redis.call('ZADD', KEYS[1], 'GT', ARGV[i + 2], ARGV[i])
  new[#new + 1] = redis.call('ZADD', KEYS[2], 'GT', ARGV[i + 3], ARGV[i + 1])
end
return new
"""

Device = tuple[str, int, UUID]  # schema, id, UUID


@dataclass(frozen=True, slots=True)
class Sign:
    """A birth, live telemetry, or a will, of a device; `at` is when the server received it."""

    kind: Literal["birth", "telemetry", "will"]
    schema: str
    device_id: int
    uuid: UUID
    session: str
    at: datetime

    @property
    def device(self) -> Device:
        return self.schema, self.device_id, self.uuid


class PresenceRecorder:
    """Records the signs of a listener's batches. Not shared between threads."""

    def __init__(self) -> None:
        # Devices whose state this process has set or found ONLINE. After a start every device is set once more:
        # the process before may have died between PostgreSQL and Redis.
        self._confirmed: set[Device] = set()
        # Signs that Redis has not heard of, because it was away.
        self._unsent: dict[Device, datetime] = {}

    def record(self, signs: Sequence[Sign]) -> None:
        """Bring states up to date with the signs, in their order. Raises what the database raises."""
        alive: dict[Device, Sign] = {}
        for sign in signs:
            if sign.kind == "will":
                self._record_alive(alive)
                alive = {}
                self._record_will(sign)
            elif sign.kind == "birth" or sign.device not in alive or alive[sign.device].kind != "birth":
                alive[sign.device] = sign
        self._record_alive(alive)

    def _record_alive(self, alive: dict[Device, Sign]) -> None:
        if not alive:
            return
        new = self._touch(alive)
        by_schema: dict[str, list[Sign]] = {}
        for device, sign in alive.items():
            if device in new or sign.kind == "birth" or device not in self._confirmed:
                by_schema.setdefault(sign.schema, []).append(sign)
        for schema, found in by_schema.items():
            set_online(schema, found)
            self._confirmed.update(sign.device for sign in found)

    def _touch(self, alive: dict[Device, Sign]) -> set[Device]:
        """Write the signs to Redis; the devices whose deadline was not there (none while Redis is away)."""
        self._unsent |= {device: sign.at for device, sign in alive.items()}
        devices = list(self._unsent)
        arguments: list[str | float] = []
        for schema, device_id, uuid in devices:
            at = self._unsent[schema, device_id, uuid].timestamp()
            arguments += [str(uuid), f"{schema}:{uuid}", at, at + settings.PRESENCE_TIMEOUT_SECONDS]
        try:
            flags = get_redis_connection("default").eval(_TOUCH, 2, LAST_SEEN, DEADLINE, *arguments)
        except RedisError as error:
            logger.warning("Redis is away (%s): signs of life of %d devices are kept here", error, len(devices))
            return set()
        self._unsent.clear()
        return {device for device, flag in zip(devices, flags, strict=True) if flag}

    def _record_will(self, sign: Sign) -> None:
        if set_offline(sign):
            self._confirmed.discard(sign.device)
            _forget_deadline([sign.device])


def set_online(schema: str, signs: Sequence[Sign]) -> None:
    """ONLINE for the devices that are not, with a ledger row each; and when each was seen, for all of them."""
    quoted = connection.ops.quote_name(schema)
    columns: list[Any] = [
        [sign.device_id for sign in signs],
        [Cause.BIRTH if sign.kind == "birth" else Cause.TELEMETRY for sign in signs],
        [sign.session for sign in signs],
        [sign.at for sign in signs],
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH found AS (
                SELECT s.device_id, s.status, n.cause, coalesce(nullif(n.session, ''), s.session) AS session, n.at
                FROM {quoted}.devices_devicestatus AS s
                JOIN unnest(%s::bigint[], %s::text[], %s::text[], %s::timestamptz[])
                  AS n(device_id, cause, session, at) USING (device_id)
                ORDER BY s.device_id FOR UPDATE OF s
            ), changed AS (
                UPDATE {quoted}.devices_devicestatus AS s
                SET status = 'ONLINE',
                    reason = CASE WHEN f.status = 'ONLINE' THEN s.reason ELSE f.cause END,
                    since = CASE WHEN f.status = 'ONLINE' THEN s.since ELSE f.at END,
                    session = f.session,
                    last_seen_at = greatest(s.last_seen_at, f.at)
                FROM found AS f WHERE s.device_id = f.device_id
            )
            INSERT INTO {quoted}.devices_statuschange
                (device_id, from_status, to_status, cause, session, evidence_at, at)
            SELECT device_id, status, 'ONLINE', cause, session, at, clock_timestamp()
            FROM found WHERE status <> 'ONLINE'
            """,  # noqa: S608 (the schema's name is quoted)
            columns,
        )


def set_offline(will: Sign) -> bool:
    """OFFLINE where the will is the current session's; an old session's, and one within the grace, change nothing."""
    quoted = connection.ops.quote_name(will.schema)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"SELECT status, session, last_seen_at FROM {quoted}.devices_devicestatus"  # noqa: S608
            " WHERE device_id = %s FOR UPDATE",
            [will.device_id],
        )
        row = cursor.fetchone()
        if row is None or row[0] in (Status.OFFLINE, Status.TIMEOUT) or not _is_current(will, row[1]):
            return False
        _change(cursor, quoted, will.device_id, row[0], Status.OFFLINE, Cause.WILL, will.session, will.at)
    return True


def set_timeout(schema: str, expired: Sequence[tuple[UUID, float]]) -> int:
    """TIMEOUT for those of the devices (UUID, last seen) that are ONLINE and were not seen since. Returns how many."""
    quoted = connection.ops.quote_name(schema)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH found AS (
                SELECT s.device_id, s.session, to_timestamp(n.seen) AS seen
                FROM {quoted}.devices_devicestatus AS s
                JOIN {quoted}.devices_device AS d ON d.id = s.device_id
                JOIN unnest(%s::uuid[], %s::double precision[]) AS n(uuid, seen) ON n.uuid = d.uuid
                WHERE s.status = 'ONLINE'
                  -- a millisecond: the score in Redis is a rounded double
                  AND (s.last_seen_at IS NULL OR s.last_seen_at <= to_timestamp(n.seen + 0.001))
                ORDER BY s.device_id FOR UPDATE OF s
            ), changed AS (
                UPDATE {quoted}.devices_devicestatus AS s
                SET status = 'TIMEOUT', reason = 'timeout', since = clock_timestamp(), last_seen_at = f.seen
                FROM found AS f WHERE s.device_id = f.device_id
            )
            INSERT INTO {quoted}.devices_statuschange
                (device_id, from_status, to_status, cause, session, evidence_at, at)
            SELECT device_id, 'ONLINE', 'TIMEOUT', 'timeout', session, seen, clock_timestamp() FROM found
            """,  # noqa: S608 (the schema's name is quoted)
            [[uuid for uuid, _ in expired], [seen for _, seen in expired]],
        )
        return cursor.rowcount


def last_seen(uuids: Iterable[UUID]) -> dict[UUID, float]:
    """When each device was last seen (Unix time), as far as Redis knows; empty while Redis is away."""
    members = list(uuids)
    if not members:
        return {}
    try:
        scores = get_redis_connection("default").zmscore(LAST_SEEN, [str(uuid) for uuid in members])
    except RedisError as error:
        logger.warning("Redis is away (%s): last seen is as of the last transition", error)
        return {}
    return {uuid: score for uuid, score in zip(members, scores, strict=True) if score is not None}


def _is_current(will: Sign, session: str) -> bool:
    if will.session and session:
        return will.session == session
    # Old firmware has no session: its will counts unless the device was heard a moment ago.
    seen = last_seen([will.uuid]).get(will.uuid)
    return seen is None or will.at.timestamp() - seen > settings.PRESENCE_WILL_GRACE_SECONDS or bool(will.session)


def _forget_deadline(devices: Sequence[Device]) -> None:
    try:
        get_redis_connection("default").zrem(DEADLINE, *[f"{schema}:{uuid}" for schema, _, uuid in devices])
    except RedisError as error:
        # The deadline passes then, and finds the device OFFLINE already.
        logger.warning("Redis is away (%s): a deadline of a device that went offline stays", error)


def _change(
    cursor: Any, quoted: str, device_id: int, old: str, new: str, cause: str, session: str, at: datetime
) -> None:
    cursor.execute(
        f"UPDATE {quoted}.devices_devicestatus SET status = %s, reason = %s, since = %s WHERE device_id = %s",  # noqa: S608
        [new, cause, at, device_id],
    )
    cursor.execute(
        f"INSERT INTO {quoted}.devices_statuschange"  # noqa: S608
        " (device_id, from_status, to_status, cause, session, evidence_at, at)"
        " VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp())",
        [device_id, old, new, cause, session, at],
    )


def now() -> float:
    """The server's clock, in one place."""
    return time.time()
