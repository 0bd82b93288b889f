"""The buckets in Redis, which all listeners share: one script that takes back and leases for many at once.

Every key carries the tenant's schema. Times are Redis' own. Losing Redis fills all buckets; a day's quota begins
anew then, and so it does no harm to lose it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django_redis import get_redis_connection

from .buckets import PREFIX, Bucket

logger = logging.getLogger(__name__)

LISTENERS = f"{PREFIX}s:listeners"
# What is used now is the mean over so many seconds.
WINDOW_SECONDS = 10
# A listener that has not flushed for so long is gone.
_GONE_SECONDS = 5
_QUOTA_SECONDS = 2 * 86400

_CLOCK = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
"""

# KEYS: buckets. ARGV: for each rate (0: a quota), size, tokens given back (below 0: owed), tokens needed, tokens
# wished beyond them. Answers for each how many are leased: of those wished, no more than half of what is left, so
# that there is something for other listeners.
_EXCHANGE = (
    _CLOCK
    + f"""
local window = math.floor(now / {WINDOW_SECONDS})
local answer = {{}}
for i, key in ipairs(KEYS) do
  local n = 5 * (i - 1)
  local rate, size, back = tonumber(ARGV[n + 1]), tonumber(ARGV[n + 2]), tonumber(ARGV[n + 3])
  local need, wish = tonumber(ARGV[n + 4]), tonumber(ARGV[n + 5])
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
  lease = lease + math.max(0, math.min(wish, math.floor((tokens - lease) / 2)))
  answer[i] = lease
  if rate == 0 then
    redis.call('SET', key, string.format('%.0f', size - tokens + lease), 'EX', {_QUOTA_SECONDS})
  else
    redis.call('HSET', key, 'tokens', string.format('%.6f', tokens - lease), 'at', string.format('%.6f', now),
      'window', window, 'taken', taken - back + lease, 'before', before)
    redis.call('EXPIRE', key, math.ceil(2 * size / rate) + {2 * WINDOW_SECONDS})
  end
end
return answer
"""
)

# KEYS: listeners. ARGV: this one. Answers how many there are.
_MEET = (
    _CLOCK
    + f"""
redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.6f', now - {_GONE_SECONDS}))
return redis.call('ZCARD', KEYS[1])
"""
)

# KEYS: rates' buckets. Answers for each the tokens that are there now and how many were taken in a second lately.
_LOOK = (
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


@dataclass(slots=True)
class Wish:
    """What a bucket gives back, needs, and would like to have beyond that."""

    bucket: Bucket
    back: int = 0
    need: int = 0
    wish: int = 0


class LimitStore:
    """The scripts on the configured Redis. Every method raises RedisError."""

    def __init__(self) -> None:
        self._redis: Any = get_redis_connection("default")
        self._exchange = self._redis.register_script(_EXCHANGE)
        self._meet = self._redis.register_script(_MEET)
        self._look = self._redis.register_script(_LOOK)

    def exchange(self, wishes: Sequence[Wish]) -> None:
        """Give back and lease, all in one round trip; what is leased is in `left` of each bucket."""
        arguments: list[object] = []
        for wish in wishes:
            bucket = wish.bucket
            arguments += (bucket.rate, bucket.size, wish.back - bucket.owed, wish.need, wish.wish)
        leased = self._exchange(keys=[wish.bucket.key for wish in wishes], args=arguments)
        for wish, lease in zip(wishes, leased, strict=True):
            wish.bucket.left += lease - wish.back
            wish.bucket.owed = 0

    def meet(self, listener: str) -> int:
        """Say that this listener is there; how many there are, this one among them."""
        return int(self._meet(keys=[LISTENERS], args=[listener]))

    def rates_now(self, keys: Sequence[str]) -> list[float]:
        """Messages a second, lately, of rates' buckets."""
        return [float(value) for value in self._look(keys=list(keys))] if keys else []

    def used_of(self, key: str) -> int:
        """How much of a day's quota is used, or leased to be used."""
        return int(self._redis.get(key) or 0)
