"""A cache with a bound in bytes, for keys or values that come from outside.

A bound in entries is none in bytes: a client chooses how long its entries are.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakSet

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# What one entry of a dictionary takes beside its key and its value.
_ENTRY_BYTES = 100

_caches: "WeakSet[ByteBoundedCache]" = WeakSet()


class ByteBoundedCache(Generic[Key, Value]):
    """A dictionary that drops its oldest entries beyond `max_bytes`. Not shared between threads.

    `size_of` returns the bytes of a key and its value together.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Key, Value], int]) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._size_of = size_of
        self._entries: dict[Key, Value] = {}
        # The dictionary's own method: a call in Python would cost as much as many entries save.
        self.get: Callable[[Key], Value | None] = self._entries.get
        _caches.add(self)

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Key, value: Value) -> None:
        """Store an entry that is not in the cache yet; one that is larger than an eighth of the bound is not stored."""
        size = self._entry_size(key, value)
        if key in self._entries or size > self.max_bytes // 8:
            return
        self._entries[key] = value
        self.used_bytes += size
        while self.used_bytes > self.max_bytes:
            oldest = next(iter(self._entries))
            self.used_bytes -= self._entry_size(oldest, self._entries.pop(oldest))

    def clear(self) -> None:
        """Drop all entries."""
        self._entries.clear()
        self.used_bytes = 0

    def _entry_size(self, key: Key, value: Value) -> int:
        return _ENTRY_BYTES + self._size_of(key, value)


def all_caches() -> "list[ByteBoundedCache]":
    """Return every cache of this process that is in use."""
    return list(_caches)
