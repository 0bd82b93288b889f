"""Password hashers that run few hashes at once in a process, and hold no database connection meanwhile.

A hash costs tens of milliseconds of processor time and, with argon2, 19 MiB of memory. Without a bound, parallel
sign-ins would take the processor and the pooled connections of all tenants.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.hashers import Argon2PasswordHasher, PBKDF2PasswordHasher

from .database import release_connection

HASHES_AT_ONCE = 2
# Requests that wait for a slot: seconds, and how many; each has a thread.
WAIT_SECONDS = 2.0
MAX_WAITING = 30


class HashingBusy(Exception):
    """All slots are in use, and the request waited long enough. Nothing was hashed."""

    status = 503
    wait = 2  # seconds, in Retry-After


class HashSlots:
    """Slots for the hashes of a process. Thread-safe."""

    def __init__(self, slots: int, max_waiting: int, wait_seconds: float) -> None:
        self._free = threading.BoundedSemaphore(slots)
        self._lock = threading.Lock()
        self._waiting = 0
        self._max_waiting, self._wait_seconds = max_waiting, wait_seconds

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot, without a database connection. Raises HashingBusy if none becomes free in time."""
        release_connection()
        self._take()
        try:
            yield
        finally:
            self._free.release()

    def _take(self) -> None:
        if self._free.acquire(blocking=False):
            return
        with self._lock:
            if self._waiting >= self._max_waiting:
                raise HashingBusy
            self._waiting += 1
        try:
            if not self._free.acquire(timeout=self._wait_seconds):
                raise HashingBusy
        finally:
            with self._lock:
                self._waiting -= 1


slots = HashSlots(HASHES_AT_ONCE, MAX_WAITING, WAIT_SECONDS)


class BoundedArgon2Hasher(Argon2PasswordHasher):
    """Argon2id with the second choice of OWASP's cheat sheet: 19 MiB, two passes, one thread.

    Django's own cost (100 MiB, eight threads) takes a second on two processors.
    """

    time_cost = 2
    memory_cost = 19 * 1024
    parallelism = 1

    def encode(self, password: str, salt: str) -> str:
        """Return the hash of a password. Raises HashingBusy."""
        with slots.slot():
            return super().encode(password, salt)

    def verify(self, password: str, encoded: str) -> bool:
        """Return whether the password has the hash. Raises HashingBusy."""
        with slots.slot():
            return super().verify(password, encoded)


class BoundedPBKDF2Hasher(PBKDF2PasswordHasher):
    """PBKDF2, for hashes from before argon2: they are replaced at the next sign-in."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> Any:
        """Return the hash of a password; `verify` calls this too. Raises HashingBusy."""
        with slots.slot():
            return super().encode(password, salt, iterations)
