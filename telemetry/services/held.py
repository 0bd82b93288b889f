"""Messages that wait, unacknowledged, because somebody has locked their tenant's tables."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .storage import Incoming

# A tenant whose tables are locked is tried again so often. A few messages show whether the tables are free: to judge
# all of them for nothing would make others wait.
_RETRY_SECONDS = 0.25
_FIRST = 20
_BATCH = 1000


class Held:
    """The messages of each such tenant, by schema, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Incoming]] = {}
        # Those whose tables were found to be free.
        self._free: set[str] = set()
        self._retry_at = 0.0

    def __len__(self) -> int:
        """How many messages wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def schemas(self) -> set[str]:
        """Whose messages wait."""
        return set(self._waiting)

    @property
    def is_due(self) -> bool:
        """Whether it is time to try again."""
        return bool(self._waiting) and time.monotonic() >= self._retry_at

    def hold(self, schema: str, messages: Iterable[Incoming]) -> None:
        """Let messages wait, behind those that do already."""
        self._waiting.setdefault(schema, []).extend(messages)

    def clear(self) -> None:
        """Forget all of them."""
        self._waiting.clear()
        self._free.clear()

    def due(self) -> list[str]:
        """The tenants to be tried now, with `trying`."""
        if not self.is_due:
            return []
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        return list(self._waiting)

    @contextmanager
    def trying(self, schema: str) -> Iterator[list[Incoming]]:
        """The first of the tenant's messages, to be stored or held again within the block; the rest stay behind them.

        Where the block raises, all of them wait as before.
        """
        waiting = self._waiting.pop(schema)
        size = _BATCH if schema in self._free else _FIRST
        try:
            yield waiting[:size]
        except BaseException:
            self._waiting[schema] = waiting
            raise
        self._free.discard(schema)
        if rest := waiting[size:]:
            if schema not in self._waiting:
                self._free.add(schema)
                self._retry_at = 0.0
            self.hold(schema, rest)
