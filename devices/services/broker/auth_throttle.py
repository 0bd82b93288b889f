"""A throttle of wrong passwords by address, which does not lock out the owner of a name.

Passwords are long and random and cannot be guessed; the limit saves work. An address with too many wrong passwords
within a minute is blocked without a query, except for clients that were admitted before with the same password. So a
device is not blocked by a neighbour at its address, and a device at another address is not affected.
"""

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable

from devices.services.broker.authentication import LoginAttempt
from tenants.infrastructure.throttling import LocalCounter

_WINDOW_SECONDS = 60
_MAX_ADDRESSES = 10_000
_MAX_ADMITTED = 200_000


class AuthThrottle:
    """Counts of wrong passwords by address, and fingerprints of admitted logins.

    Not shared between threads or processes.
    """

    def __init__(self, failures_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures_per_minute
        self._failures = LocalCounter(_WINDOW_SECONDS, _MAX_ADDRESSES, clock)
        self._admitted: OrderedDict[bytes, None] = OrderedDict()
        self._key = os.urandom(32)

    def blocks(self, login: LoginAttempt) -> bool:
        """Return whether the login is rejected without a query."""
        return self._is_suspicious(login.address) and self._fingerprint(login) not in self._admitted

    def record(self, login: LoginAttempt, allowed: bool) -> bool:
        """Record a result. Return True when the login's address has just reached the limit."""
        fingerprint = self._fingerprint(login)
        if allowed:
            self._admitted[fingerprint] = None
            self._admitted.move_to_end(fingerprint)
            if len(self._admitted) > _MAX_ADMITTED:
                self._admitted.popitem(last=False)
            return False
        self._admitted.pop(fingerprint, None)
        return self._failures.add(login.address).events == self._limit

    def _is_suspicious(self, address: str) -> bool:
        return self._limit > 0 and self._failures.read(address).events >= self._limit

    def _fingerprint(self, login: LoginAttempt) -> bytes:
        """Return a hash of name and password, keyed with a random key of this process."""
        shown = f"{login.name}\0{login.password}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(shown, key=self._key, digest_size=16).digest()
