"""A prepared batch into PostgreSQL: all tenants together, or, where that fails, each by itself, or message by message.

A tenant whose tables are locked or faulty is blocked: its messages wait, and the others are stored.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeGuard

import psycopg

from telemetry.services.latest.values import LatestRecorder
from telemetry.services.lookups.routing import Router
from telemetry.services.pipeline.results import (
    Incoming,
    LimitedItem,
    MessageResult,
    Refusal,
    RefusedItem,
    TenantResult,
)
from telemetry.services.storage import overflow
from telemetry.services.storage.optimistic_writer import AlreadyStored
from telemetry.services.storage.tenant_writer import TenantWriter
from tenants.infrastructure.retry import first_line, is_database_lost, is_lock_conflict
from tenants.infrastructure.sql_errors import ErrorKind, is_of_tenant, kind_of

from .batch_preparation import BatchPreparer
from .batches import LockedMessage, PreparedBatch
from .blocked_tenants import BlockedTenantBuffer

logger = logging.getLogger(__name__)

# How long a tenant of a batch that failed because of locks is waited for, when it is stored by itself.
_RETRY_PATIENCE_MS = 10


class BatchWriter:
    """Stores batches; messages that are not stored use up no limit. Not shared between threads."""

    def __init__(
        self,
        writer: TenantWriter,
        preparer: BatchPreparer,
        router: Router,
        latest: LatestRecorder,
        blocked: BlockedTenantBuffer,
        on_fault: Callable[[str, str], None],
    ) -> None:
        """`blocked` receives the messages of tenants whose tables are locked or faulty; of a faulty one `on_fault`
        receives the schema and the error.
        """
        self._writer = writer
        self._preparer = preparer
        self._router = router
        self._latest = latest
        self._blocked = blocked
        self._on_fault = on_fault

    def send(self, batch: PreparedBatch) -> None:
        """Send a batch; its errors are found when it is received."""
        for schema in self._blocked.schemas & batch.groups.keys():
            # Behind the messages that wait already.
            items = batch.groups.pop(schema)
            self._preparer.release_limits(items, batch)
            batch.waiting_counts += filter(_is_count, items)
            if messages := messages_of(items):
                batch.locked[schema] = messages + batch.locked.get(schema, [])
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
            self._preparer.release_limits(items, batch)

    def _settle(self, batch: PreparedBatch, patience_ms: int | None) -> list[TenantResult]:
        try:
            results = self._receive(batch) if patience_ms is None else self._store_each(batch, patience_ms)
            batch.counts.discard(batch.groups.keys())
            self._store_unrouted(batch)
            self._store_waiting_counts(batch)
        except BaseException:
            # Some of it may be stored: its commit was not confirmed, or another tenant's was.
            self._latest.mark_incomplete()
            self.release_limits(batch)
            raise
        for schema, waiting in batch.locked.items():
            self._blocked.add(schema, waiting)
            if fault := self._router.faults.get(schema):
                self._on_fault(schema, fault)
        return results

    def _store_unrouted(self, batch: PreparedBatch) -> None:
        if batch.unrouted or batch.counts.unrouted:
            self._writer.store_unrouted(batch.unrouted, batch.counts.unrouted)
            batch.unrouted_limited, batch.counts.unrouted = batch.counts.unrouted, 0

    def _store_waiting_counts(self, batch: PreparedBatch) -> None:
        """Store the counts of blocked tenants in the public schema: their messages cannot be acknowledged before."""
        if batch.waiting_counts:
            overflow.add_counts(self._writer.connect(), batch.waiting_counts)
            schemas = {item.spec.tenant.schema for item in batch.waiting_counts}
            batch.counts.discard(schemas)
            for schema in schemas:
                self._blocked.set_overflow(schema, True)

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
        """Store each tenant by itself. The blocked ones leave the batch's groups, and their messages wait."""
        results = []
        for schema, items in list(batch.groups.items()):
            try:
                results += self._store_tenant(schema, items, patience_ms)
                batch.counts.discard({schema})
            except psycopg.Error as error:
                if not is_of_tenant(error):
                    raise
                self._block(batch, schema, error)
        return results

    def _block(self, batch: PreparedBatch, schema: str, error: psycopg.Error) -> None:
        items = batch.groups.pop(schema)
        self._preparer.release_limits(items, batch)
        batch.waiting_counts += filter(_is_count, items)
        if messages := messages_of(items):
            self._blocked.add(schema, messages)
        if is_lock_conflict(error):
            logger.warning("%s is locked: its messages wait", schema)
        else:
            self._on_fault(schema, first_line(error))

    def _store_tenant(self, schema: str, items: list[MessageResult], patience_ms: int | None) -> list[TenantResult]:
        """Store the tenant's messages together, or, where one of them cannot be stored, one by one."""
        try:
            return [self._writer.store(schema, items, patience_ms)]
        except psycopg.Error as error:
            kind = kind_of(error)
            if kind in (ErrorKind.SERVER, ErrorKind.LOCK):
                raise
            logger.warning("A batch of %d messages of %s cannot be stored together: %s", len(items), schema, error)
            # The tenant's tables or devices may have changed since they were cached.
            self._router.forget(schema)
            self._writer.forget(schema)
            if isinstance(error, psycopg.errors.FeatureNotSupported):
                self._writer.close()  # the server has plans of statements whose columns have changed
        if kind is ErrorKind.SCHEMA:
            return [self._writer.store(schema, items, patience_ms)]
        # If the tenant becomes locked half-way, the newest values lack the messages stored by then.
        self._latest.mark_incomplete()
        return [result for item in items for result in self._store_one(item)]

    def _store_one(self, item: MessageResult) -> Sequence[TenantResult]:
        """Store one message as it is registered now. Staff get a message that PostgreSQL rejects, with its error."""
        if _is_count(item):
            return [self._writer.store(item.spec.tenant.schema, [item])]
        current = self._preparer.validate([item.incoming])[0]
        if isinstance(current, LockedMessage):
            self._blocked.add(current.schema, [item.incoming])
            return []
        schema = self._preparer.schema_of(current)
        try:
            if schema is not None:
                return [self._writer.store(schema, [current])]
            self._writer.store_unrouted([current])  # type: ignore[list-item]  # an accepted message has a tenant
        except psycopg.Error as error:
            if kind_of(error) is not ErrorKind.DATA:
                raise
            logger.exception("A message on %s cannot be stored", item.incoming.topic)
            refusal = Refusal("malformed", f"PostgreSQL cannot store the message: {error}")
            self._writer.store_unrouted([RefusedItem(item.incoming, None, refusal)])
        return [TenantResult("", [item])]


def _is_count(item: MessageResult) -> TypeGuard[LimitedItem]:
    """Return whether the item only stands for braked messages."""
    return isinstance(item, LimitedItem) and item.result is None


def messages_of(items: Iterable[MessageResult]) -> list[Incoming]:
    """Return the messages of the items; those that counts stand for are acknowledged with these."""
    return [item.incoming for item in items if not _is_count(item)]
