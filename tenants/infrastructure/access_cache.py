"""A short-lived cache of what every request asks for again: its tenant, and its API key.

An entry is valid for `ACCESS_CACHE_SECONDS`: what is revoked or suspended is rejected by every process after this time,
without a message between them that could be lost, and at once by the process that changed it.
"""

import copy
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from django.conf import settings

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_MAX_ENTRIES = 10_000
# Tests set another.
clock: Callable[[], float] = time.monotonic


class AccessCache(Generic[Key, Value]):
    """Rows by key, of this process. Thread-safe. `key` must contain the tenant, unless the row is the tenant's own.

    What is not found is not kept, so that a new row is there at once.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._lock = threading.Lock()
        # Of the last `forget`: a row that was read before it is not kept after it.
        self._forgotten = 0

    def get(self, key: Key, find: Callable[[], Value | None]) -> Value | None:
        """Return a copy of the row, from the cache or by `find`, which queries it and returns None for no row."""
        entry = self._entries.get(key)
        if entry is not None and clock() < entry[0]:
            return copy.copy(entry[1])
        forgotten, until = self._forgotten, clock() + settings.ACCESS_CACHE_SECONDS
        found = find()
        if found is not None and settings.ACCESS_CACHE_SECONDS > 0:
            self._keep(key, (until, copy.copy(found)), forgotten)
        return found

    def forget(self, matches: Callable[[Key, Value], Any]) -> None:
        """Remove the entries for which `matches(key, row)` is true."""
        with self._lock:
            self._forgotten += 1
            for key in [key for key, (_until, row) in self._entries.items() if matches(key, row)]:
                del self._entries[key]

    def __len__(self) -> int:
        return len(self._entries)

    def _keep(self, key: Key, entry: tuple[float, Value], forgotten: int) -> None:
        with self._lock:
            if forgotten != self._forgotten:
                return
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if len(self._entries) > _MAX_ENTRIES:
                self._entries.popitem(last=False)
