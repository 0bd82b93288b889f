"""Messages that wait because somebody has locked their tenant's tables: here unacknowledged, or put aside."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from telemetry.services.pipeline.results import Incoming

# A tenant whose tables are locked is tried again so often. A few messages show whether the tables are free: to judge
# all of them for nothing would make others wait, as would more at a time than a batch has.
_RETRY_SECONDS = 0.25
_FIRST = 20
_BATCH = 250
# More of all tenants together are put aside: a quarter of what brokers usually send ahead.
_MOST = 250


class Held:
    """The messages of each such tenant, by schema, in the order in which they came.

    Of a tenant with messages aside those come first, and what comes later waits behind them.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Incoming]] = {}
        self._aside: set[str] = set()
        # Those whose tables were found to be free.
        self._free: set[str] = set()
        self._retry_at = 0.0

    def __len__(self) -> int:
        """How many messages wait here."""
        return sum(map(len, self._waiting.values()))

    @property
    def schemas(self) -> set[str]:
        """Whose messages wait, here or aside."""
        return self._waiting.keys() | self._aside

    @property
    def is_due(self) -> bool:
        """Whether it is time to try again."""
        return bool(self._waiting or self._aside) and time.monotonic() >= self._retry_at

    def hold(self, schema: str, messages: Iterable[Incoming]) -> None:
        """Let messages wait, behind those that do already."""
        self._waiting.setdefault(schema, []).extend(messages)

    def clear(self) -> None:
        """Forget all that wait here."""
        self._waiting.clear()
        self._free.clear()

    def due(self) -> list[str]:
        """The tenants to be tried now, with `trying`, or with what is aside."""
        if not self.is_due:
            return []
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        return list(self.schemas)

    def many(self, schema: str) -> int:
        """How many messages are to be tried at a time."""
        return _BATCH if schema in self._free else _FIRST

    @contextmanager
    def trying(self, schema: str) -> Iterator[list[Incoming]]:
        """The first of the tenant's messages, to be stored or held again within the block; the rest stay behind them.

        Where the block raises, all of them wait as before.
        """
        size, waiting = self.many(schema), self._waiting.pop(schema, [])
        try:
            yield waiting[:size]
        except BaseException:
            self._waiting[schema] = waiting
            raise
        self._free.discard(schema)
        if rest := waiting[size:]:
            if schema not in self._waiting:
                self.note_free(schema)
            self.hold(schema, rest)

    # --- aside --------------------------------------------------------------------------------------------------

    def is_aside(self, schema: str) -> bool:
        """Whether there are messages of the tenant aside, as far as is known."""
        return schema in self._aside

    def note_aside(self, schema: str) -> None:
        """There are."""
        self._aside.add(schema)

    def note_none_aside(self, schema: str) -> None:
        """There are none any more."""
        self._aside.discard(schema)

    def note_free(self, schema: str) -> None:
        """The tenant's tables are free: its other messages are to be tried at once, and many of them."""
        self._free.add(schema)
        self._retry_at = 0.0

    def too_many(self) -> list[str]:
        """The tenants whose messages are to be put aside, with `putting_aside`."""
        return [schema for schema in self._waiting if schema not in self._free] if len(self) > _MOST else []

    @contextmanager
    def putting_aside(self, schema: str) -> Iterator[list[Incoming]]:
        """The tenant's messages, to be put aside within the block. Where it raises they wait as before."""
        yield self._waiting[schema]
        del self._waiting[schema]
        self.note_aside(schema)
