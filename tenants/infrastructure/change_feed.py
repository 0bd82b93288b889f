"""A change feed: which members changed since a point in time, published through Redis to every process."""

import logging

from django_redis import get_redis_connection
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

# The score is Redis' own time in microseconds, so that the clocks of two machines are never compared.
_PUBLISH = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local kept = tonumber(ARGV[2])
if kept > 0 then redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - kept)) end
return redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
"""


class ChangeFeed:
    """A sorted set in Redis: each member with the time of its last change (µs). Old members go after `kept_seconds`."""

    def __init__(self, key: str, *, kept_seconds: int = 0) -> None:
        self._key = key
        self._kept_micros = kept_seconds * 1_000_000

    def publish(self, member: str) -> None:
        """Mark the member as changed now. An unavailable Redis is logged, not raised."""
        try:
            get_redis_connection("default").eval(_PUBLISH, 1, self._key, member, self._kept_micros)
        except RedisError as error:
            logger.warning("The change of %s is not published in %s: %s", member, self._key, error)

    def changes(self, score: int, *, inclusive: bool) -> dict[str, int]:
        """Return the members that changed after `score` (µs), or also at it, with their scores. Raises RedisError."""
        start = score if inclusive else f"({score}"
        rows = get_redis_connection("default").zrangebyscore(self._key, start, "+inf", withscores=True)
        return {member.decode(): int(at) for member, at in rows}
