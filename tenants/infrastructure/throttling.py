"""Counters of events in windows of time, in Redis and in the process, and the throttles of requests."""

import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from django.conf import settings
from django_redis import get_redis_connection
from redis.exceptions import RedisError
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from .client_address import address_group
from .database import current_schema

if TYPE_CHECKING:
    # REST framework loads this module from its settings, before its views are there.
    from rest_framework.views import APIView

logger = logging.getLogger(__name__)

_MINUTE = 60
# One command costs the client half of what a pipeline of two does.
_ADD = """
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return count
"""
# The newest keys that a process counts alone, while Redis is unavailable.
_MAX_LOCAL_KEYS = 10_000
# The Unix time that windows in Redis are of; tests set another, so that none of them meets the end of a window.
clock: Callable[[], float] = time.time


class Window(NamedTuple):
    """The events that a key has had in its window of time."""

    events: int
    seconds_left: int


class WindowCounter(Protocol):
    """Events by key in windows of a fixed length."""

    def add(self, key: str, amount: int = 1) -> Window:
        """Count events and return the window with them."""

    def read(self, key: str) -> Window:
        """Return the window without counting."""


class RedisCounter:
    """Events counted by all processes together; every window begins at a multiple of its length.

    `key` must contain the tenant, because Redis is shared. While Redis is unavailable, each process counts alone.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._local = LocalCounter(seconds, _MAX_LOCAL_KEYS)
        self._lock = threading.Lock()

    def add(self, key: str, amount: int = 1) -> Window:
        """Count events and return the window with them; -1 subtracts an event that was counted too early."""
        return self._increase(key, amount)

    def read(self, key: str) -> Window:
        """Return the window without counting."""
        return self._increase(key, 0)

    def _increase(self, key: str, amount: int) -> Window:
        number, elapsed = divmod(int(clock()), self._seconds)
        name = f"gwanje:count:{key}:{number}"
        left = self._seconds - elapsed
        try:
            count = get_redis_connection("default").eval(_ADD, 1, name, amount, self._seconds + 1)
            return Window(int(count), left)
        except RedisError as error:
            logger.warning("Requests are counted by this process alone: %s", error)
            with self._lock:
                return self._local.add(key, amount)


class LocalCounter:
    """Events counted by this process alone, without waiting; a key's window begins with its first event.

    Holds the newest `max_keys` keys. Not for several threads.
    """

    def __init__(self, seconds: int, max_keys: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._max_keys = max_keys
        self._clock = clock
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def add(self, key: str, amount: int = 1) -> Window:
        """Count an event and return the window with it."""
        began, count = self._current(key)
        self._windows[key] = began, count + amount
        self._windows.move_to_end(key)
        if len(self._windows) > self._max_keys:
            self._windows.popitem(last=False)
        return self.read(key)

    def read(self, key: str) -> Window:
        """Return the window without counting."""
        began, count = self._current(key)
        return Window(count, int(began + self._seconds - self._clock()))

    def __len__(self) -> int:
        return len(self._windows)

    def _current(self, key: str) -> tuple[float, int]:
        now = self._clock()
        began, count = self._windows.get(key, (now, 0))
        return (began, count) if now - began < self._seconds else (now, 0)


class SecretThrottle:
    """Counts of invalid secrets by address, in this process; secrets that were valid lately are never blocked.

    For secrets that cannot be guessed: it saves the query. Thread-safe.
    """

    def __init__(self, failures_per_minute: int) -> None:
        self._limit = failures_per_minute
        self._failures = LocalCounter(_MINUTE, _MAX_LOCAL_KEYS)
        self._admitted: OrderedDict[bytes, None] = OrderedDict()
        self._key = os.urandom(32)
        self._lock = threading.Lock()

    def blocks(self, address: str, secret: str) -> bool:
        """Return whether the secret is rejected without a query; False without a limit (0)."""
        with self._lock:
            if not self._limit or not len(self._failures):
                return False
            failures = self._failures.read(address_group(address)).events
            return failures >= self._limit and self._fingerprint(secret) not in self._admitted

    def is_admitted(self, secret: str) -> bool:
        """Return whether the secret was valid lately."""
        with self._lock:
            return self._fingerprint(secret) in self._admitted

    def record(self, address: str, secret: str, valid: bool) -> bool:
        """Record a result. Return True when the address has just reached the limit."""
        fingerprint = self._fingerprint(secret)
        with self._lock:
            self._admitted.pop(fingerprint, None)
            if not valid:
                return self._failures.add(address_group(address)).events == self._limit
            self._admitted[fingerprint] = None
            if len(self._admitted) > _MAX_LOCAL_KEYS:
                self._admitted.popitem(last=False)
            return False

    def _fingerprint(self, secret: str) -> bytes:
        """Return a hash with a random key of this process."""
        return hashlib.blake2b(secret.encode(), key=self._key, digest_size=16).digest()


class SharedSecretThrottle:
    """As `SecretThrottle`, with one count of an address's failures for all processes. `name` is that of the secret.

    Only secrets that were not valid in this process lately cost a command of Redis.
    """

    def __init__(self, name: str, failures_per_minute: int) -> None:
        self._name = name
        self._limit = failures_per_minute
        self._failures = RedisCounter(_MINUTE)
        self._admitted = SecretThrottle(0)

    def left(self, address: str, secret: str) -> int | None:
        """Return how many more failures the address may cause with this secret; None: any number, without a limit."""
        if not self._limit:
            return None
        if self._admitted.is_admitted(secret):
            return self._limit
        return max(0, self._limit - self._failures.read(self._key(address)).events)

    def record(self, address: str, secret: str, *, failures: int, valid: bool) -> None:
        """Record failures, and whether the secret is admitted from now on, as it is until the next failures."""
        if not self._limit:
            return
        if failures:
            self._failures.add(self._key(address), failures)
        if failures or valid:
            self._admitted.record(address, secret, valid)

    def count(self, address: str) -> None:
        """Count a failure of the address, which leaves its admitted secrets as they are."""
        if self._limit:
            self._failures.add(self._key(address))

    def _key(self, address: str) -> str:
        return f"{self._name}:{address_group(address)}"


class WindowThrottle(BaseThrottle):
    """At most so many requests of one key in a minute."""

    counter: ClassVar[WindowCounter] = RedisCounter(_MINUTE)
    # The name of the limit in the header `RateLimit`.
    policy: ClassVar[str] = "tenant"
    _counted: tuple[int, Window] | None = None

    def limit(self) -> int | None:
        """Return how many requests are allowed; None for no limit."""
        raise NotImplementedError

    def key(self, request: Request) -> str:
        """Return the key that the request counts for."""
        raise NotImplementedError

    def allow_request(self, request: Request, view: "APIView") -> bool:
        """Count the request by its weight, and return whether it is within the limit."""
        limit = self.limit()
        if limit is None:
            return True
        # A request that is as heavy as the limit is possible, alone.
        window = self.counter.add(self.key(request), min(self.weight(request, view), limit))
        self._counted = limit, window
        return window.events <= limit

    def weight(self, request: Request, view: "APIView") -> int:
        """Return how many requests the request counts as."""
        return 1

    def wait(self) -> float:
        """Return the seconds until the window ends."""
        return float(self._counted[1].seconds_left) if self._counted else 0.0

    def headers(self) -> dict[str, str]:
        """Return the limit and what is left of it, as the draft `ratelimit-headers` of the IETF; {} without a limit."""
        if self._counted is None:
            return {}
        limit, window = self._counted
        left = max(0, limit - window.events)
        return {
            "RateLimit-Policy": f'"{self.policy}";q={limit};w={_MINUTE}',
            "RateLimit": f'"{self.policy}";r={left};t={window.seconds_left}',
        }


class TenantThrottle(WindowThrottle):
    """One count for all clients of a tenant, so that no tenant slows down the others.

    Requests that are rejected before it (401, 403) do not count: they must not use up the tenant's share.
    """

    def limit(self) -> int | None:
        """Return `API_REQUESTS_PER_MINUTE`; None, for 0, is unlimited."""
        return settings.API_REQUESTS_PER_MINUTE or None

    def key(self, request: Request) -> str:
        """Return the key of the tenant."""
        return f"api:{current_schema()}"

    def weight(self, request: Request, view: "APIView") -> int:
        """Return the weight that the view gives the request, 1 unless it does."""
        weigh = getattr(view, "weight_of", None)
        return weigh(request) if weigh else 1
