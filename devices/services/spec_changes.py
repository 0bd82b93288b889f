"""Which tenants' device specifications changed, told through Redis to every listener.

One sorted set: member schema, score Redis' own time in microseconds, so that no two machines' clocks are
compared. A listener that misses a change (Redis away) still reads specifications again after a time limit.
"""

import logging

from django_redis import get_redis_connection
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

KEY = "gwanje:spec_changes"
_ANNOUNCE = """
local t = redis.call('TIME')
return redis.call('ZADD', KEYS[1], string.format('%.0f', t[1] * 1000000 + t[2]), ARGV[1])
"""


def announce(schema: str) -> None:
    """Mark the schema's specifications as changed now. Redis being away is logged, not raised."""
    try:
        get_redis_connection("default").eval(_ANNOUNCE, 1, KEY, schema)
    except RedisError as error:
        logger.warning("Could not announce changed specifications of %s: %s", schema, error)


def changed_since(score: int) -> dict[str, int]:
    """Schemas that changed at or after `score` (µs), with their scores. Raises RedisError."""
    rows = get_redis_connection("default").zrangebyscore(KEY, score, "+inf", withscores=True)
    return {schema.decode(): int(at) for schema, at in rows}
