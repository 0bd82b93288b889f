"""Concurrency limits: leases of expensive operations, counted over all processes in Redis and in this process.

A lease names its operation and the shares that it counts for: of a key or person, of a tenant, of the process. A thread
renews the leases of the process, so that a lease ends when it is released or no longer referenced, and soon after its
process died. While Redis is unavailable each process counts its own leases.
"""

import logging
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django_redis import get_redis_connection
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

# Lifetime of a lease that is not renewed, and the pause between two renewals, in seconds.
LEASE_SECONDS = 20.0
RENEWAL_SECONDS = 6.0
# The clock of the leases of this process.
clock: Callable[[], float] = time.monotonic

# KEYS: the shares; ARGV: the token, the lifetime in milliseconds, then the limit of each share. Returns 0, or the
# number of the first share without room; then nothing was added. The clock is that of Redis, the same for all.
_ACQUIRE = """
local now = redis.call('TIME')
local millis = now[1] * 1000 + math.floor(now[2] / 1000)
for number, key in ipairs(KEYS) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', millis)
    if redis.call('ZSCORE', key, ARGV[1]) == false and redis.call('ZCARD', key) >= tonumber(ARGV[2 + number]) then
        return number
    end
end
for _, key in ipairs(KEYS) do
    redis.call('ZADD', key, millis + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', key, ARGV[2])
end
return 0
"""
_UNBOUNDED = 2**53


class Scope(StrEnum):
    """What a share belongs to."""

    KEY = "key"
    PERSON = "person"
    TENANT = "tenant"
    PROCESS = "process"


class Operation(StrEnum):
    """The operations that are counted, by their names in `CONCURRENCY_LIMITS` and in metrics."""

    EVENT_STREAM = "event_stream"
    EXPORT = "export"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Share:
    """At most `limit` leases at a time of one owner; 0: unlimited. `owner` must contain the tenant."""

    scope: Scope
    owner: str
    limit: int


class LimitReached(Exception):
    """A share has no room for another operation at this time."""

    def __init__(self, operation: Operation, share: Share, retry_seconds: int) -> None:
        super().__init__(f"{operation}: {share.limit} at a time for this {share.scope}")
        self.operation, self.share, self.retry_seconds = operation, share, retry_seconds


class Lease:
    """The right to run an operation while the object is referenced; a context manager that releases it. Thread-safe."""

    def __init__(self, operation: Operation, shares: Sequence[Share]) -> None:
        self._operation = operation
        self._shares = [share for share in shares if share.limit > 0]
        self._token = secrets.token_hex(8)
        self._is_released = False

    def acquire(self, retry_seconds: int) -> None:
        """Count the operation. Raises LimitReached."""
        _forget_orphans()
        full = _local.add(self._local_keys(), self._token) or self._add_shared()
        if full:
            self._is_released = True
            _local.remove(list(self._local_keys()), self._token)
            raise LimitReached(self._operation, full, retry_seconds)
        _renewer.add(self)

    def renew(self) -> None:
        """Extend the lease by its lifetime; its share may have been given away after an outage of Redis."""
        if self._is_released:
            return
        unlimited = {key: Share(share.scope, share.owner, _UNBOUNDED) for key, share in self._local_keys().items()}
        _local.add(unlimited, self._token)
        self._add_shared(is_renewal=True)
        if self._is_released:  # by another thread meanwhile
            self.release()

    def release(self) -> None:
        """End the lease; may be called more than once."""
        self._is_released = True
        _renewer.discard(self)
        _forget(list(self._local_keys()), list(self._shared_keys()), self._token)

    def __del__(self) -> None:
        # Only noted: the collection of garbage can interrupt any code, also the code that it would call.
        if not self._is_released:
            _orphans.append((list(self._local_keys()), list(self._shared_keys()), self._token))

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _add_shared(self, *, is_renewal: bool = False) -> Share | None:
        """Count it in Redis; return the share without room. While Redis is unavailable nothing is counted there."""
        shares = self._shared_keys()
        if not shares:
            return None
        limits = [_UNBOUNDED if is_renewal else share.limit for share in shares.values()]
        arguments: list[Any] = [self._token, int(1000 * LEASE_SECONDS), *limits]
        try:
            full = get_redis_connection("default").eval(_ACQUIRE, len(shares), *shares, *arguments)
        except RedisError as error:
            logger.warning("Redis is unavailable (%s): %s are counted by this process alone", error, self._operation)
            return None
        return list(shares.values())[full - 1] if full else None

    def _local_keys(self) -> dict[str, Share]:
        return {self._key(share): share for share in self._shares}

    def _shared_keys(self) -> dict[str, Share]:
        return {self._key(share): share for share in self._shares if share.scope is not Scope.PROCESS}

    def _key(self, share: Share) -> str:
        return f"gwanje:concurrency:{self._operation}:{share.scope}:{share.owner}"


def acquire(operation: Operation, shares: Sequence[Share], *, retry_seconds: int = 10) -> Lease:
    """Return a lease that counts for all shares. Raises LimitReached; then nothing is counted."""
    lease = Lease(operation, shares)
    lease.acquire(retry_seconds)
    return lease


class _LocalLeases:
    """The leases of this process: by share the tokens with their ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[str, dict[str, float]] = {}

    def add(self, shares: dict[str, Share], token: str) -> Share | None:
        """Count the token for all shares; return the first share without room, after which nothing is counted."""
        now = clock()
        with self._lock:
            for key, share in shares.items():
                if token not in self._current(key, now) and len(self._ends.get(key, ())) >= share.limit:
                    return share
            for key in shares:
                self._ends.setdefault(key, {})[token] = now + LEASE_SECONDS
        return None

    def remove(self, keys: Sequence[str], token: str) -> None:
        """Forget the token; a share without any is forgotten too."""
        with self._lock:
            for key in keys:
                tokens = self._ends.get(key, {})
                tokens.pop(token, None)
                if not tokens:
                    self._ends.pop(key, None)

    def __len__(self) -> int:
        return len(self._ends)

    def _current(self, key: str, now: float) -> dict[str, float]:
        """Return the tokens of a share, after those that have ended are removed."""
        tokens = self._ends.get(key)
        if tokens is None:
            return {}
        for token in [token for token, end in tokens.items() if end <= now]:
            del tokens[token]
        if not tokens:
            del self._ends[key]
        return tokens


class _Renewer:
    """A thread that renews the leases of this process while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        """Renew the lease from now on, as long as it is referenced."""
        with self._lock:
            self._leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lease-renewal", daemon=True)
                self._thread.start()

    def discard(self, lease: Lease) -> None:
        """Renew the lease no longer."""
        with self._lock:
            self._leases.discard(lease)

    def _run(self) -> None:
        while True:
            time.sleep(RENEWAL_SECONDS)
            _forget_orphans()
            with self._lock:
                leases = list(self._leases)
                if not leases:
                    self._thread = None
                    return
            while leases:
                # No reference outlasts the renewal: it would keep alive a lease without any other.
                leases.pop().renew()


def _forget(local_keys: list[str], shared_keys: list[str], token: str) -> None:
    _local.remove(local_keys, token)
    if not shared_keys:
        return
    try:
        with get_redis_connection("default").pipeline(transaction=False) as pipeline:
            for key in shared_keys:
                pipeline.zrem(key, token)
            pipeline.execute()
    except RedisError:
        pass  # It ends by itself.


def _forget_orphans() -> None:
    """Forget the leases that nothing references any more, such as those of responses that were never sent."""
    while _orphans:
        try:
            orphan = _orphans.popleft()
        except IndexError:  # another thread was faster
            return
        _forget(*orphan)


# Local keys, shared keys and token of each lease that was not released.
_orphans: deque[tuple[list[str], list[str], str]] = deque()
_local = _LocalLeases()
_renewer = _Renewer()
