"""The buckets in Redis, which all listeners share: one script returns and leases tokens of many buckets at once.

Every key contains the tenant's schema. Times are Redis' own. Losing Redis fills all buckets and begins the day's
quotas anew, which does no harm.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django_redis import get_redis_connection

from .buckets import PREFIX, TokenBucket

logger = logging.getLogger(__name__)

LISTENERS = f"{PREFIX}s:listeners"
# The current rate is the mean over this many seconds.
WINDOW_SECONDS = 10
# A listener that has not flushed for this long has stopped.
_LISTENER_SECONDS = 5
_QUOTA_SECONDS = 2 * 86400
# Behind a quota's key: a hash of the leased and unused tokens of each listener, and when they were recorded.
_UNUSED = ":unused"

_CLOCK = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
"""

# KEYS: buckets. ARGV: for each rate (0: a quota), size, tokens returned (below 0: owed), tokens needed, tokens wanted
# ahead, and those that the listener keeps besides the lease; then its name, under which a quota's unused tokens are
# recorded. Answers for each how many are leased: of those wanted ahead, at most half of the rest, so that some are left
# for other listeners.
_EXCHANGE = (
    _CLOCK
    + f"""
local window = math.floor(now / {WINDOW_SECONDS})
local answer = {{}}
for i, key in ipairs(KEYS) do
  local n = 6 * (i - 1)
  local rate, size, back = tonumber(ARGV[n + 1]), tonumber(ARGV[n + 2]), tonumber(ARGV[n + 3])
  local need, ahead, kept = tonumber(ARGV[n + 4]), tonumber(ARGV[n + 5]), tonumber(ARGV[n + 6])
  local tokens, taken, before
  if rate == 0 then
    tokens = size - math.max(0, tonumber(redis.call('GET', key) or '0') - back)
  else
    local known = redis.call('HMGET', key, 'tokens', 'at', 'window', 'taken', 'before')
    local at = math.min(tonumber(known[2] or now), now)
    tokens = math.min(size, tonumber(known[1] or size) + (now - at) * rate + back)
    tokens = math.max(tokens, -size)
    taken, before = tonumber(known[4] or 0), tonumber(known[5] or 0)
    local last = tonumber(known[3] or window)
    if last ~= window then
      before = last == window - 1 and taken or 0
      taken = 0
    end
  end
  local lease = math.max(0, math.min(need, math.floor(tokens)))
  lease = lease + math.max(0, math.min(ahead, math.floor((tokens - lease) / 2)))
  answer[i] = lease
  if rate == 0 then
    redis.call('SET', key, string.format('%.0f', size - tokens + lease), 'EX', {_QUOTA_SECONDS})
    redis.call('HSET', key .. '{_UNUSED}', ARGV[#ARGV], string.format('%.0f %.6f', math.max(0, kept + lease), now))
    redis.call('EXPIRE', key .. '{_UNUSED}', {_QUOTA_SECONDS})
  else
    redis.call('HSET', key, 'tokens', string.format('%.6f', tokens - lease), 'at', string.format('%.6f', now),
      'window', window, 'taken', taken - back + lease, 'before', before)
    redis.call('EXPIRE', key, math.ceil(2 * size / rate) + {2 * WINDOW_SECONDS})
  end
end
return answer
"""
)

# KEYS: listeners. ARGV: this one. Answers how many are running.
_REGISTER = (
    _CLOCK
    + f"""
redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.6f', now - {_LISTENER_SECONDS}))
return redis.call('ZCARD', KEYS[1])
"""
)

# KEYS: rates' buckets. Answers for each how many tokens a second were taken lately.
_RATES = (
    _CLOCK
    + f"""
local window = math.floor(now / {WINDOW_SECONDS})
local part = now / {WINDOW_SECONDS} - window
local answer = {{}}
for i, key in ipairs(KEYS) do
  local known = redis.call('HMGET', key, 'window', 'taken', 'before')
  local last, taken, before = tonumber(known[1] or 0), tonumber(known[2] or 0), tonumber(known[3] or 0)
  if last == window - 1 then before, taken = taken, 0 end
  if last < window - 1 then before, taken = 0, 0 end
  answer[i] = string.format('%.3f', math.max(0, taken + before * (1 - part)) / {WINDOW_SECONDS})
end
return answer
"""
)


# KEYS: a quota's bucket. Answers how much of it is used: what is leased, less what running listeners have left of it.
_USED = (
    _CLOCK
    + f"""
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
for _, unused in ipairs(redis.call('HVALS', KEYS[1] .. '{_UNUSED}')) do
  local count, at = string.match(unused, '(%d+) (.+)')
  if now - tonumber(at) <= {_LISTENER_SECONDS} then used = used - tonumber(count) end
end
return math.max(0, used)
"""
)


@dataclass(slots=True)
class LeaseRequest:
    """The tokens that a bucket returns, needs, and wants ahead."""

    bucket: TokenBucket
    returned: int = 0
    needed: int = 0
    ahead: int = 0


class BucketStore:
    """The buckets in the configured Redis, for the listener of this name. Every method raises RedisError."""

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._redis: Any = get_redis_connection("default")
        self._exchange = self._redis.register_script(_EXCHANGE)
        self._register = self._redis.register_script(_REGISTER)
        self._rates = self._redis.register_script(_RATES)
        self._used = self._redis.register_script(_USED)

    def exchange(self, requests: Sequence[LeaseRequest]) -> None:
        """Return and lease tokens in one round trip; the leased ones are added to each bucket's `left`."""
        arguments: list[object] = []
        for request in requests:
            bucket = request.bucket
            # Where tokens are needed, those that are left are used with them.
            kept = -request.needed if request.needed > 0 else bucket.left - request.returned
            arguments += (bucket.rate, bucket.size, request.returned - bucket.owed, request.needed, request.ahead, kept)
        arguments.append(self._name)
        leased = self._exchange(keys=[request.bucket.key for request in requests], args=arguments)
        for request, lease in zip(requests, leased, strict=True):
            request.bucket.left += lease - request.returned
            request.bucket.owed = 0

    def register_listener(self) -> int:
        """Register this listener as running, and return the number of running listeners."""
        return int(self._register(keys=[LISTENERS], args=[self._name]))

    def current_rates(self, keys: Sequence[str]) -> list[float]:
        """Return the messages a second, lately, of rates' buckets."""
        return [float(value) for value in self._rates(keys=list(keys))] if keys else []

    def used_quota(self, key: str) -> int:
        """Return how much of a day's quota is used, or was leased by a listener that has stopped since."""
        return int(self._used(keys=[key]))
