"""A sorted batch into PostgreSQL: all tenants together, or, where that cannot be, each by itself, or one by one."""

import logging
from collections.abc import Sequence

import psycopg

from telemetry.services.latest.values import LatestRecorder
from telemetry.services.lookups.routing import Router
from telemetry.services.pipeline.refusal import Refused
from telemetry.services.pipeline.results import Judged, Outcome, RefusedItem
from telemetry.services.storage.optimistic_writer import Conflict
from telemetry.services.storage.tenant_writer import Storage
from tenants.infrastructure.retry import DATABASE_LOST, is_database_lost, is_lock_conflict

from .batch_preparation import Sorter
from .batches import Batch, Settled
from .locked_tenants import Held
from .validation import Busy, Judge

logger = logging.getLogger(__name__)

_AGAIN_PATIENCE_MS = 10


class Storer:
    """Stage 6 for a batch; what is not stored uses up no limit. Not shared between threads."""

    def __init__(
        self, storage: Storage, sorter: Sorter, judge: Judge, router: Router, latest: LatestRecorder, held: Held
    ) -> None:
        self._storage = storage
        self._sorter = sorter
        self._judge = judge
        self._router = router
        self._latest = latest
        self._held = held

    def send(self, batch: Batch) -> None:
        """Send a batch; what goes wrong is found when it is received."""
        for schema in self._held.schemas & batch.groups.keys():
            # Behind those that wait already.
            items = batch.groups.pop(schema)
            self._judge.give_back(items, replayed=batch.replayed)
            batch.busy[schema] = [item.incoming for item in items] + batch.busy.get(schema, [])
            batch.packed = None
        try:
            if batch.groups:
                batch.packed = batch.packed or self._storage.pack(batch.groups)
                self._storage.send(batch.packed)
        except (Conflict, psycopg.Error) as error:
            batch.error = error

    def receive(self, batch: Batch) -> list[Settled]:
        """What became of what was sent. Raises what a lost database raises: then some of it may be stored."""
        return self._settle(batch, None)

    def store(self, batch: Batch, patience_ms: int) -> list[Settled]:
        """Store what was not sent, tenant by tenant, so long waiting for locks. Raises as `receive` does."""
        return self._settle(batch, patience_ms)

    def give_back(self, batch: Batch) -> None:
        """The batch was not stored, as far as is known, and will be judged again."""
        for items in batch.groups.values():
            self._judge.give_back(items, replayed=batch.replayed)

    def _settle(self, batch: Batch, patience_ms: int | None) -> list[Settled]:
        try:
            settled = self._sent(batch) if patience_ms is None else self._each(batch, patience_ms)
            if batch.unrouted:
                self._storage.store_unrouted(batch.unrouted)
        except BaseException:
            # Some of it may be stored all the same: its commit was not heard of, or it is another tenant's.
            self._latest.doubt()
            self.give_back(batch)
            raise
        for schema, waiting in batch.busy.items():
            self._held.hold(schema, waiting)
        return settled

    def _sent(self, batch: Batch) -> list[Settled]:
        """All tenants together, or, where that cannot be, each by itself."""
        try:
            if batch.error is not None:
                raise batch.error
            outcomes = self._storage.receive(batch.packed) if batch.packed and batch.groups else {}
            return [Settled(schema, outcomes[schema], items) for schema, items in batch.groups.items()]
        except Conflict:
            pass
        except psycopg.Error as error:
            if is_database_lost(error):
                raise
            logger.info("A batch of %d tenants is stored tenant by tenant: %s", len(batch.groups), error)
            if is_lock_conflict(error):
                # Everybody has waited for the locked one already.
                return self._each(batch, _AGAIN_PATIENCE_MS)
        return self._each(batch, None)

    def _each(self, batch: Batch, patience_ms: int | None) -> list[Settled]:
        """Each tenant by itself. Those that are locked leave the batch's groups, and are held."""
        settled = []
        for schema, items in list(batch.groups.items()):
            try:
                settled += self._tenant(schema, items, patience_ms)
            except psycopg.Error as error:
                if not is_lock_conflict(error):
                    raise
                logger.warning("%s is locked: its messages wait", schema)
                del batch.groups[schema]
                self._judge.give_back(items, replayed=batch.replayed)
                self._held.hold(schema, [item.incoming for item in items])
        return settled

    def _tenant(self, schema: str, items: list[Judged], patience_ms: int | None) -> list[Settled]:
        """The tenant's messages stored together, or, where one of them cannot be, one by one."""
        try:
            return [Settled(schema, self._storage.store(schema, items, patience_ms), items)]
        except psycopg.Error as error:
            if isinstance(error, DATABASE_LOST):
                raise
            logger.warning("A batch of %d messages of %s cannot be stored together: %s", len(items), schema, error)
            # Perhaps the tenant's tables or devices changed under the cache.
            self._router.forget(schema)
            self._storage.forget(schema)
        # Should the tenant be locked half-way, what is stored by then is not noted.
        self._latest.doubt()
        return [settled for item in items for settled in self._alone(item)]

    def _alone(self, item: Judged) -> Sequence[Settled]:
        """One message, as it is registered now; the one that PostgreSQL refuses goes to staff, with its words."""
        again = self._sorter.again([item.incoming])[0]
        if isinstance(again, Busy):
            self._held.hold(again.schema, [item.incoming])
            return []
        schema = self._sorter.schema_of(again)
        try:
            if schema is not None:
                return [Settled(schema, self._storage.store(schema, [again]), [again])]
            self._storage.store_unrouted([again])  # type: ignore[list-item]  # what is accepted has a tenant
        except psycopg.Error as error:
            if isinstance(error, DATABASE_LOST):
                raise
            logger.exception("A message on %s cannot be stored", item.incoming.topic)
            refusal = Refused("malformed", f"PostgreSQL cannot store the message: {error}")
            self._storage.store_unrouted([RefusedItem(item.incoming, None, refusal)])
        return [Settled("", Outcome(), [item])]
