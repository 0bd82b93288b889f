"""Failures of single tenants: which work fails for which tenant, why, and since when; in Redis, until it works again.

The processes record them, and the console and `/metrics` name them. All of it can be lost: a failure that lasts is
recorded again by the next attempt.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from .retry import first_line

logger = logging.getLogger(__name__)

# The members are `work:schema`. A sorted set by the time at which the failure expires, and a hash with its details.
_EXPIRING = "gwanje:tenant_failures"
_DETAILS = "gwanje:tenant_failures:details"
_KEYS = (_EXPIRING, _DETAILS)
_MAX_DETAIL = 300

_RECORD = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
for i = 2, #ARGV, 2 do
    local since = now
    local known = redis.call('ZSCORE', KEYS[1], ARGV[i])
    if known and tonumber(known) > now then
        local before = redis.call('HGET', KEYS[2], ARGV[i])
        if before then since = cjson.decode(before)[1] end
    end
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[i])
    redis.call('HSET', KEYS[2], ARGV[i], cjson.encode({since, ARGV[i + 1]}))
end
"""
_CURRENT = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%f', now))
for _, member in ipairs(old) do
    redis.call('ZREM', KEYS[1], member)
    redis.call('HDEL', KEYS[2], member)
end
local found = {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    found[#found + 1] = member
    found[#found + 1] = redis.call('HGET', KEYS[2], member)
end
return found
"""


@dataclass(frozen=True, slots=True)
class TenantFailure:
    """Work that fails for a tenant: `work` is its name, `detail` the error's first line."""

    schema: str
    work: str
    detail: str
    since: datetime


def record_failures(work: str, details: Mapping[str, BaseException | str], seconds: float) -> None:
    """Record that the work fails for the schemas, until it is recorded again or `seconds` have passed.

    An unavailable Redis is logged, not raised.
    """
    if not details:
        return
    arguments = [
        part
        for schema, detail in details.items()
        for part in (f"{work}:{schema}", (detail if isinstance(detail, str) else first_line(detail))[:_MAX_DETAIL])
    ]
    try:
        get_redis_connection("default").eval(_RECORD, len(_KEYS), *_KEYS, seconds, *arguments)
    except RedisError as error:
        logger.warning("Failures of %d tenants are not recorded: %s", len(details), error)


def clear_failures(work: str, schemas: Iterable[str]) -> None:
    """Remove the failures of the work for the schemas: it works again. An unavailable Redis is logged, not raised."""
    members = [f"{work}:{schema}" for schema in schemas]
    if not members:
        return
    try:
        with get_redis_connection("default").pipeline(transaction=False) as pipe:
            pipe.zrem(_EXPIRING, *members)
            pipe.hdel(_DETAILS, *members)
            pipe.execute()
    except RedisError as error:
        logger.warning("Failures of %d tenants expire later: %s", len(members), error)


def current_failures() -> list[TenantFailure]:
    """Return the failures of now, by schema and work. Raises RedisError."""
    answer = get_redis_connection("default").eval(_CURRENT, len(_KEYS), *_KEYS)
    found = []
    for member, value in zip(answer[::2], answer[1::2], strict=True):
        work, schema = member.decode().split(":", 1)
        since, detail = orjson.loads(value or b'[0, ""]')
        found.append(TenantFailure(schema, work, detail, datetime.fromtimestamp(since, UTC)))
    return sorted(found, key=lambda failure: (failure.schema, failure.work))
