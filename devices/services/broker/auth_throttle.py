"""Keeps who tries passwords away from the database, without locking out anybody whose name is tried.

Passwords cannot be found by trying: they are random and long. What is limited is the work: an address from which too
many wrong ones came within a minute is refused unseen, but for clients that were let in before with the very password
that they show now; those are asked about again as ever. So a device keeps its way in whoever shares its address, and
one at another address does not notice.
"""

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable

from devices.services.broker.authentication import Login

_WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 10_000
_MOST_KNOWN = 200_000


class LoginGuard:
    """Wrong passwords of each address, and who was let in before. Not shared between threads, or processes."""

    def __init__(self, failures_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures_per_minute
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._key = os.urandom(32)

    def refuses(self, login: Login) -> bool:
        """Whether the login is refused unseen."""
        return self._is_suspicious(login.address) and self._fingerprint(login) not in self._known

    def note(self, login: Login, allowed: bool) -> bool:
        """Take note of a verdict. True when the login's address has just become one that is refused unseen."""
        fingerprint = self._fingerprint(login)
        if allowed:
            self._known[fingerprint] = None
            self._known.move_to_end(fingerprint)
            _shrink(self._known, _MOST_KNOWN)
            return False
        self._known.pop(fingerprint, None)
        began, count = self._failures.pop(login.address, (self._clock(), 0))
        if self._clock() - began >= _WINDOW_SECONDS:
            began, count = self._clock(), 0
        self._failures[login.address] = began, count + 1
        _shrink(self._failures, _MOST_ADDRESSES)
        return count + 1 == self._limit

    def _is_suspicious(self, address: str) -> bool:
        began, count = self._failures.get(address, (0.0, 0))
        return 0 < self._limit <= count and self._clock() - began < _WINDOW_SECONDS

    def _fingerprint(self, login: Login) -> bytes:
        """Of name and password, under a key that is this process's own: of no use to who reads its memory later."""
        shown = f"{login.name}\0{login.password}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(shown, key=self._key, digest_size=16).digest()


def _shrink(entries: OrderedDict, most: int) -> None:
    """Forget the oldest."""
    while len(entries) > most:
        entries.popitem(last=False)
