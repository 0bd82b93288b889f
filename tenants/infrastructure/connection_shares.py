"""Shares of a process's pooled connections: a tenant whose requests wait for locked tables leaves some to the others.

A request without a slot waits for one without a connection, and is refused when none becomes free in time. Requests
with much work, which hold the interpreter for as long as many others, are processed one at a time for each tenant.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# After a request that waited for a lock in vain, its tenant has one slot for so long.
STRAINED_SECONDS = 10.0


@dataclass(slots=True)
class _Share:
    used: int = 0
    large: int = 0
    waiting: int = 0
    strained_until: float = 0.0


class ConnectionShares:
    """The slots of each schema: how many of its requests may use a connection at a time. Thread-safe."""

    def __init__(self, slots: int, *, patience: float = 2.0, large_patience: float = 10.0) -> None:
        """A request waits up to `patience` seconds for a slot, a large one up to `large_patience`.

        As many as four times the slots may wait.
        """
        self._slots = max(1, slots)
        self._patience, self._large_patience = patience, large_patience
        self._shares: dict[str, _Share] = {}
        self._changed = threading.Condition()

    @contextmanager
    def slot(self, schema: str, before_waiting: Callable[[], None], *, is_large: bool = False) -> Iterator[bool]:
        """Yield whether the request has a slot, until the end of the block. Of a schema one `is_large` at a time.

        `before_waiting` is called when there is none at once: it must return the connection of this thread.
        """
        has_slot = self._take(schema, 0.0, is_large)
        if not has_slot:
            before_waiting()
            has_slot = self._take(schema, self._large_patience if is_large else self._patience, is_large)
        try:
            yield has_slot
        finally:
            if has_slot:
                with self._changed:
                    self._shares[schema].used -= 1
                    self._shares[schema].large -= is_large
                    self._forget_unused(schema)
                    self._changed.notify_all()

    def strain(self, schema: str) -> None:
        """Leave the schema one slot for a while: its requests wait for something that others do not need."""
        with self._changed:
            self._shares.setdefault(schema, _Share()).strained_until = time.monotonic() + STRAINED_SECONDS

    def _take(self, schema: str, patience: float, is_large: bool) -> bool:
        with self._changed:
            share = self._shares.setdefault(schema, _Share())
            if patience and share.waiting >= 4 * self._slots:
                return False
            share.waiting += 1
            has_slot = self._changed.wait_for(lambda: self._has_room(share, is_large), patience)
            share.waiting -= 1
            share.used += has_slot
            share.large += has_slot and is_large
            self._forget_unused(schema)
            return has_slot

    def _has_room(self, share: _Share, is_large: bool) -> bool:
        slots = 1 if time.monotonic() < share.strained_until else self._slots
        return share.used < slots and not (is_large and share.large)

    def _forget_unused(self, schema: str) -> None:
        share = self._shares[schema]
        if not share.used and not share.waiting and time.monotonic() >= share.strained_until:
            del self._shares[schema]
