"""The messages of blocked tenants: those whose tables are locked by another transaction, or faulty.

Locked tables are tried again four times a second. A faulty schema (a missing table, a broken migration, lost rights) is
tried with growing pauses, and its messages are spilled at once: it stays faulty until it is mended.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from telemetry.services.pipeline.results import Incoming
from tenants.infrastructure.retry import Backoff

logger = logging.getLogger(__name__)

# The pause between two attempts of a tenant. A few messages show whether the tables are free: validating all of them
# in vain would delay other tenants, as would more at a time than a batch has.
_RETRY_SECONDS = 0.25
_FIRST_BATCH_SIZE = 20
_BATCH_SIZE = 250
# Beyond this number of messages of all tenants the overflow is used: a quarter of what brokers usually send ahead.
_CAPACITY = 250
# The pauses between two attempts of a faulty schema, in seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_LOCKED = "Another transaction locks its tables."


@dataclass(slots=True)
class _Fault:
    """A faulty schema: the error of the last attempt, and the pause until the next."""

    detail: str
    backoff: Backoff = field(default_factory=lambda: Backoff(_SHORTEST_PAUSE, _LONGEST_PAUSE))


class BlockedTenantBuffer:
    """The messages of each blocked tenant, by schema, in the order in which they arrived.

    The messages in a tenant's overflow come first; later ones wait behind them. `schemas` are those of the tenants
    whose messages wait, here or in the overflow, and `count` is the number of messages here: attributes, because the
    listener reads them for each batch.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Incoming]] = {}
        self._with_overflow: set[str] = set()
        # Tenants whose tables were found to be free.
        self._unlocked: set[str] = set()
        self._faults: dict[str, _Fault] = {}
        self._retry_at = 0.0
        self.schemas: set[str] = set()
        self.count = 0

    @property
    def is_due(self) -> bool:
        """Whether the next attempt is due, or messages must be spilled."""
        return time.monotonic() >= self._retry_at and any(
            schema in self._waiting or not self._is_pausing(schema) for schema in self.schemas
        )

    def details(self) -> dict[str, str]:
        """Return the cause for each blocked tenant, by schema."""
        return {
            schema: fault.detail if (fault := self._faults.get(schema)) else _LOCKED
            for schema in self.schemas - self._unlocked
        }

    def add(self, schema: str, messages: Iterable[Incoming]) -> None:
        """Append messages to those of the tenant."""
        self._waiting.setdefault(schema, []).extend(messages)
        self._count()

    def add_fault(self, schema: str, detail: str) -> None:
        """Record that an attempt failed because the schema is faulty: the next one follows after a longer pause.

        During a pause there is no attempt: what fails then was sent before, or could not be read.
        """
        fault = self._faults.get(schema)
        if fault is None:
            fault = self._faults[schema] = _Fault(detail)
        fault.detail = detail
        self._unlocked.discard(schema)
        if fault.backoff.is_pausing:
            return
        pause = fault.backoff.fail()
        logger.error("%s is faulty: its messages wait, and are tried again in %.0f s: %s", schema, pause, detail)

    def clear(self) -> None:
        """Drop all messages that wait here."""
        self._waiting.clear()
        self._unlocked.clear()
        self._count()

    def due_schemas(self) -> list[str]:
        """Return the tenants to try now, with `attempt`, or with their overflow."""
        if not self.is_due:
            return []
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        return [schema for schema in self.schemas if not self._is_pausing(schema)]

    def next_batch_size(self, schema: str) -> int:
        """Return how many of the tenant's messages to try at a time."""
        return _BATCH_SIZE if schema in self._unlocked else _FIRST_BATCH_SIZE

    @contextmanager
    def attempt(self, schema: str) -> Iterator[list[Incoming]]:
        """Yield the tenant's first messages, to be stored or added again within the block; the rest stay behind them.

        Where the block raises, all of them wait as before.
        """
        size, waiting = self.next_batch_size(schema), self._waiting.pop(schema, [])
        try:
            yield waiting[:size]
        except BaseException:
            self._waiting[schema] = waiting
            raise
        finally:
            self._count()
        self._unlocked.discard(schema)
        if waiting and schema not in self._waiting:
            self._forget_fault(schema)
        if rest := waiting[size:]:
            if schema not in self._waiting:
                self.mark_unlocked(schema)
            self.add(schema, rest)

    def mark_unlocked(self, schema: str) -> None:
        """Record that the tenant's tables are free: its other messages are tried at once, and many of them."""
        self._forget_fault(schema)
        self._unlocked.add(schema)
        self._retry_at = 0.0

    def _count(self) -> None:
        self.schemas = self._waiting.keys() | self._with_overflow
        self.count = sum(map(len, self._waiting.values()))

    def _is_pausing(self, schema: str) -> bool:
        fault = self._faults.get(schema)
        return fault is not None and fault.backoff.is_pausing

    def _forget_fault(self, schema: str) -> None:
        if self._faults.pop(schema, None):
            logger.warning("%s is mended: its messages are stored again", schema)

    # --- overflow -------------------------------------------------------------------------------------------------

    def has_overflow(self, schema: str) -> bool:
        """Return whether the tenant is known to have overflow."""
        return schema in self._with_overflow

    def set_overflow(self, schema: str, exists: bool) -> None:
        """Record whether the tenant has overflow."""
        if exists:
            self._with_overflow.add(schema)
        else:
            self._with_overflow.discard(schema)
        self._count()

    def over_capacity(self) -> list[str]:
        """Return the tenants whose messages must be spilled, with `spilling`; those of faulty schemas always."""
        if self.count <= _CAPACITY:
            return [schema for schema in self._waiting if schema in self._faults]
        return [schema for schema in self._waiting if schema not in self._unlocked]

    @contextmanager
    def spilling(self, schema: str) -> Iterator[list[Incoming]]:
        """Yield the tenant's messages, to be spilled within the block. Where it raises they wait as before."""
        yield self._waiting[schema]
        del self._waiting[schema]
        self.set_overflow(schema, True)
