"""Which tenants' device specifications changed, or series were renamed, told through Redis to every listener.

One sorted set: member schema (with a mark for renamed series), score Redis' own time in microseconds, so that no
two machines' clocks are compared. A listener that misses a change (Redis away) still reads specifications again
after a time limit.
"""

import logging

from django_redis import get_redis_connection
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

KEY = "gwanje:spec_changes"
_SERIES_MARK = "#series"
_ANNOUNCE = """
local t = redis.call('TIME')
return redis.call('ZADD', KEYS[1], string.format('%.0f', t[1] * 1000000 + t[2]), ARGV[1])
"""


def announce(schema: str) -> None:
    """Mark the schema's specifications as changed now. Redis being away is logged, not raised."""
    _announce(schema)


def announce_renamed_series(schema: str) -> None:
    """Tell that series of the schema have other names from now on, so that their ids are looked up anew."""
    _announce(schema + _SERIES_MARK)


def renamed_series_of(member: str) -> str | None:
    """The schema whose series were renamed, where the member says so."""
    return member.removesuffix(_SERIES_MARK) if member.endswith(_SERIES_MARK) else None


def _announce(member: str) -> None:
    try:
        get_redis_connection("default").eval(_ANNOUNCE, 1, KEY, member)
    except RedisError as error:
        logger.warning("Could not announce a change of %s: %s", member, error)


def changed_since(score: int) -> dict[str, int]:
    """Members (see `renamed_series_of`) that changed at or after `score` (µs), with their scores. Raises RedisError."""
    rows = get_redis_connection("default").zrangebyscore(KEY, score, "+inf", withscores=True)
    return {schema.decode(): int(at) for schema, at in rows}
