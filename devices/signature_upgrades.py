"""Devices that have signed with version 2 for the first time, told through Redis to every listener.

Once in a device's life, so each is told by itself: dropping a tenant's specifications would have all of them read again
for each device of a fleet that gets new firmware. One sorted set: member UUID, score Redis' own time in microseconds.
"""

import logging
from uuid import UUID

from django_redis import get_redis_connection
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

KEY = "gwanje:floor_changes"
# Longer than a listener, however idle, uses a specification that it does not read again.
_KEPT_MICROS = 3600 * 1_000_000
_ANNOUNCE = f"""
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - {_KEPT_MICROS}))
return redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
"""


def announce(uuid: UUID) -> None:
    """Tell that the device is not heard in version 1 any more. Redis being away is logged, not raised."""
    try:
        get_redis_connection("default").eval(_ANNOUNCE, 1, KEY, str(uuid))
    except RedisError as error:
        logger.warning("Could not announce that %s signs with version 2: %s", uuid, error)


def risen_after(score: int) -> dict[UUID, int]:
    """Devices that were announced after `score` (µs), with their scores. Raises RedisError."""
    rows = get_redis_connection("default").zrangebyscore(KEY, f"({score}", "+inf", withscores=True)
    return {UUID(uuid.decode()): int(at) for uuid, at in rows}
