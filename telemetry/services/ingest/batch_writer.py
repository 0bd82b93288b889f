"""A prepared batch into PostgreSQL, and the messages that wait because their tenant's tables are locked.

All tenants are stored together, or, where that fails, each by itself, or message by message.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import psycopg

from telemetry.services.latest.values import LatestRecorder
from telemetry.services.lookups.routing import Router
from telemetry.services.pipeline.results import Incoming, MessageResult, Refusal, RefusedItem, TenantResult
from telemetry.services.storage.optimistic_writer import AlreadyStored
from telemetry.services.storage.tenant_writer import TenantWriter
from tenants.infrastructure.retry import DATABASE_LOST, is_database_lost, is_lock_conflict

from .batch_preparation import BatchPreparer
from .batches import LockedMessage, PreparedBatch

logger = logging.getLogger(__name__)

# How long a tenant of a batch that failed because of locks is waited for, when it is stored by itself.
_RETRY_PATIENCE_MS = 10
# The pause between two attempts of a tenant. A few messages show whether the tables are free: validating all of them
# in vain would delay other tenants, as would more at a time than a batch has.
_RETRY_SECONDS = 0.25
_FIRST_BATCH_SIZE = 20
_BATCH_SIZE = 250
# Beyond this number of messages of all tenants the overflow is used: a quarter of what brokers usually send ahead.
_CAPACITY = 250


class LockedTenantBuffer:
    """The messages of each locked tenant, by schema, in the order in which they arrived.

    The messages in a tenant's overflow come first; later ones wait behind them.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Incoming]] = {}
        self._with_overflow: set[str] = set()
        # Tenants whose tables were found to be free.
        self._unlocked: set[str] = set()
        self._retry_at = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def schemas(self) -> set[str]:
        """The schemas of the tenants whose messages wait, here or in the overflow."""
        return self._waiting.keys() | self._with_overflow

    @property
    def is_due(self) -> bool:
        """Whether the next attempt is due."""
        return bool(self._waiting or self._with_overflow) and time.monotonic() >= self._retry_at

    def add(self, schema: str, messages: Iterable[Incoming]) -> None:
        """Append messages to those of the tenant."""
        self._waiting.setdefault(schema, []).extend(messages)

    def clear(self) -> None:
        """Drop all messages that wait here."""
        self._waiting.clear()
        self._unlocked.clear()

    def due_schemas(self) -> list[str]:
        """Return the tenants to try now, with `attempt`, or with their overflow."""
        if not self.is_due:
            return []
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        return list(self.schemas)

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
        self._unlocked.discard(schema)
        if rest := waiting[size:]:
            if schema not in self._waiting:
                self.mark_unlocked(schema)
            self.add(schema, rest)

    def mark_unlocked(self, schema: str) -> None:
        """Record that the tenant's tables are free: its other messages are tried at once, and many of them."""
        self._unlocked.add(schema)
        self._retry_at = 0.0

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

    def over_capacity(self) -> list[str]:
        """Return the tenants whose messages must be spilled, with `spilling`."""
        if len(self) <= _CAPACITY:
            return []
        return [schema for schema in self._waiting if schema not in self._unlocked]

    @contextmanager
    def spilling(self, schema: str) -> Iterator[list[Incoming]]:
        """Yield the tenant's messages, to be spilled within the block. Where it raises they wait as before."""
        yield self._waiting[schema]
        del self._waiting[schema]
        self.set_overflow(schema, True)


class BatchWriter:
    """Stores batches; messages that are not stored use up no limit. Not shared between threads."""

    def __init__(
        self,
        writer: TenantWriter,
        preparer: BatchPreparer,
        router: Router,
        latest: LatestRecorder,
        locked: LockedTenantBuffer,
    ) -> None:
        """`locked` receives the messages of tenants whose tables are locked."""
        self._writer = writer
        self._preparer = preparer
        self._router = router
        self._latest = latest
        self._locked = locked

    def send(self, batch: PreparedBatch) -> None:
        """Send a batch; its errors are found when it is received."""
        for schema in self._locked.schemas & batch.groups.keys():
            # Behind the messages that wait already.
            items = batch.groups.pop(schema)
            self._preparer.release_limits(items, replayed=batch.replayed)
            batch.locked[schema] = [item.incoming for item in items] + batch.locked.get(schema, [])
            batch.packed = None
        try:
            if batch.groups:
                batch.packed = batch.packed or self._writer.pack(batch.groups)
                self._writer.send(batch.packed)
        except (AlreadyStored, psycopg.Error) as error:
            batch.error = error

    def receive(self, batch: PreparedBatch) -> list[TenantResult]:
        """Return the tenants' results of a batch that was sent. Raises the error of a lost database; some of it may be
        stored then.
        """
        return self._settle(batch, None)

    def store(self, batch: PreparedBatch, patience_ms: int) -> list[TenantResult]:
        """Store a batch that was not sent, tenant by tenant, waiting this long for locks. Raises as `receive` does."""
        return self._settle(batch, patience_ms)

    def release_limits(self, batch: PreparedBatch) -> None:
        """Return the limits' tokens of a batch that is not known to be stored, and will be validated again."""
        for items in batch.groups.values():
            self._preparer.release_limits(items, replayed=batch.replayed)

    def _settle(self, batch: PreparedBatch, patience_ms: int | None) -> list[TenantResult]:
        try:
            results = self._receive(batch) if patience_ms is None else self._store_each(batch, patience_ms)
            if batch.unrouted:
                self._writer.store_unrouted(batch.unrouted)
        except BaseException:
            # Some of it may be stored: its commit was not confirmed, or another tenant's was.
            self._latest.mark_incomplete()
            self.release_limits(batch)
            raise
        for schema, waiting in batch.locked.items():
            self._locked.add(schema, waiting)
        return results

    def _receive(self, batch: PreparedBatch) -> list[TenantResult]:
        """Return the results of all tenants together, or, where that fails, of each by itself."""
        try:
            if batch.error is not None:
                raise batch.error
            return self._writer.receive(batch.packed) if batch.packed and batch.groups else []
        except AlreadyStored:
            pass
        except psycopg.Error as error:
            if is_database_lost(error):
                raise
            logger.info("A batch of %d tenants is stored tenant by tenant: %s", len(batch.groups), error)
            if is_lock_conflict(error):
                # All tenants have waited for the locked one already.
                return self._store_each(batch, _RETRY_PATIENCE_MS)
        return self._store_each(batch, None)

    def _store_each(self, batch: PreparedBatch, patience_ms: int | None) -> list[TenantResult]:
        """Store each tenant by itself. The locked ones leave the batch's groups, and their messages wait."""
        results = []
        for schema, items in list(batch.groups.items()):
            try:
                results += self._store_tenant(schema, items, patience_ms)
            except psycopg.Error as error:
                if not is_lock_conflict(error):
                    raise
                logger.warning("%s is locked: its messages wait", schema)
                del batch.groups[schema]
                self._preparer.release_limits(items, replayed=batch.replayed)
                self._locked.add(schema, [item.incoming for item in items])
        return results

    def _store_tenant(self, schema: str, items: list[MessageResult], patience_ms: int | None) -> list[TenantResult]:
        """Store the tenant's messages together, or, where one of them cannot be stored, one by one."""
        try:
            return [self._writer.store(schema, items, patience_ms)]
        except psycopg.Error as error:
            if isinstance(error, DATABASE_LOST):
                raise
            logger.warning("A batch of %d messages of %s cannot be stored together: %s", len(items), schema, error)
            # The tenant's tables or devices may have changed since they were cached.
            self._router.forget(schema)
            self._writer.forget(schema)
        # If the tenant becomes locked half-way, the newest values lack the messages stored by then.
        self._latest.mark_incomplete()
        return [result for item in items for result in self._store_one(item)]

    def _store_one(self, item: MessageResult) -> Sequence[TenantResult]:
        """Store one message as it is registered now. Staff get a message that PostgreSQL rejects, with its error."""
        current = self._preparer.validate([item.incoming])[0]
        if isinstance(current, LockedMessage):
            self._locked.add(current.schema, [item.incoming])
            return []
        schema = self._preparer.schema_of(current)
        try:
            if schema is not None:
                return [self._writer.store(schema, [current])]
            self._writer.store_unrouted([current])  # type: ignore[list-item]  # an accepted message has a tenant
        except psycopg.Error as error:
            if isinstance(error, DATABASE_LOST):
                raise
            logger.exception("A message on %s cannot be stored", item.incoming.topic)
            refusal = Refusal("malformed", f"PostgreSQL cannot store the message: {error}")
            self._writer.store_unrouted([RefusedItem(item.incoming, None, refusal)])
        return [TenantResult("", [item])]
