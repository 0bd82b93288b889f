"""A batch through the pipeline. What it says to be settled is safe: only then may it be acknowledged."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg
from django.conf import settings

from devices.services.presence import PresenceRecorder, Sign
from devices.services.secrets import SecretStore
from tenants.database import conninfo, is_busy

from . import envelope, hints
from .judging import Busy, Judge
from .keyring import Keyring
from .latest import LatestRecorder
from .limits import Limiter
from .refusal import Refused
from .routing import Router
from .signs import signs_of
from .storage import Conflict, Incoming, Judged, Outcome, RefusedItem, Storage
from .storage.binary import EPOCH_MICROS

logger = logging.getLogger(__name__)

# A tenant whose tables are locked is tried again so often, so many messages at a time, without much waiting.
_HELD_SECONDS = 0.25
_HELD_BATCH = 1000
_HELD_PATIENCE_MS = 5
# Signs of life of devices known to be online are sent to Redis together, and limits are leased, this often.
_FLUSH_SECONDS = 0.5


@dataclass(slots=True)
class _Settled:
    """What became of a tenant's part of a batch."""

    schema: str
    outcome: Outcome
    items: Sequence[Judged]


@dataclass(slots=True)
class Tally:
    """What became of a batch's messages, over all tenants; `unrouted` belong to none.

    `settled` may be acknowledged; the others are held until their tenant's tables are free.
    """

    stored: int = 0
    duplicates: int = 0
    quarantined: int = 0
    limited: int = 0
    unrouted: int = 0
    settled: list[Incoming] = field(default_factory=list)


class Ingest:
    """The stages with what they need: routing's cache, the keys, the database, presence."""

    def __init__(
        self,
        router: Router,
        keyring: Keyring,
        limiter: Limiter,
        storage: Storage,
        presence: PresenceRecorder,
        latest: LatestRecorder,
    ) -> None:
        self.router = router
        self.keyring = keyring
        self.storage = storage
        self._judge = Judge(router, keyring, limiter)
        self._presence = presence
        self._latest = latest
        self._flush_at = 0.0
        # Tenants with messages that this process parked for want of a key.
        self.parked: set[str] = set()
        # Messages of tenants whose tables are locked, in the order in which they came.
        self._held: dict[str, list[Incoming]] = {}
        self._retry_held_at = 0.0

    @property
    def held(self) -> int:
        """How many messages wait for their tenant's tables."""
        return sum(map(len, self._held.values()))

    def process(self, batch: Sequence[Incoming]) -> Tally:
        """Judge, store, and take note of presence.

        Raises what a lost database raises; nothing may be acknowledged then, and the same batch is tried again.
        """
        tally = Tally()
        routed: list[Incoming] = []
        told: list[Incoming] = []
        for incoming in batch:
            (told if hints.is_hint(incoming) else routed).append(incoming)
        if told:
            hints.take(told, self.router.resolve)
            tally.settled += told
        self._settle(self._judged(routed), tally)
        return tally

    def retry_held(self) -> Tally:
        """Try again what is held, when it is time. Raises as `process` does."""
        tally = Tally()
        now = time.monotonic()
        if self._held and now >= self._retry_held_at:
            self._retry_held_at = now + _HELD_SECONDS
            for schema in list(self._held):
                waiting = self._held.pop(schema)
                try:
                    self._settle(self._judged(waiting[:_HELD_BATCH]), tally, patience_ms=_HELD_PATIENCE_MS)
                except BaseException:
                    self._held[schema] = waiting
                    raise
                if rest := waiting[_HELD_BATCH:]:
                    self._held.setdefault(schema, []).extend(rest)
        return tally

    def drop_held(self) -> None:
        """Forget what is held: the connection is gone, and the broker will send it again."""
        self._held.clear()

    def tick(self, *, last: bool = False) -> None:
        """What is due between batches, or, the `last` time, everything. Raises as `process` does."""
        self._presence.flush(now=last)
        now = time.monotonic()
        if last or now >= self._flush_at:
            self._flush_at = now + _FLUSH_SECONDS
            self._judge.flush()
            self._latest.flush()

    def judge_again(self, batch: Sequence[Incoming]) -> list[Judged | Busy]:
        """What messages are now that came before: nothing is stored."""
        return self._judged(batch)

    def within_limits(self, judged: Sequence[Judged], *, replayed: bool) -> list[Judged]:
        """The same, in their order, with what is over a limit refused or left uncounted."""
        return self._judge.limit(judged, replayed=replayed)

    def note_readings(self, schema: str, outcome: Outcome) -> None:
        """Tell the newest values of what was stored outside of `process`."""
        if outcome.readings:
            self._latest.note_all(schema, outcome.readings, EPOCH_MICROS)

    def close(self) -> None:
        """Let go of the servers, after the last batch."""
        self._latest.close()
        self.keyring.close()
        self.storage.close()

    # --- storing ----------------------------------------------------------------------------------------------

    def _settle(self, judged: Sequence[Judged | Busy], tally: Tally, patience_ms: int | None = None) -> None:
        groups: dict[str, list[Judged]] = {}
        unrouted: list[RefusedItem] = []
        for item in judged:
            schema = item.schema if isinstance(item, Busy) else self.schema_of(item)
            if schema is None:
                unrouted.append(item)  # type: ignore[arg-type]  # what is accepted has a tenant
            elif isinstance(item, Busy) or schema in self._held:
                self._hold(schema, [item.incoming])
            else:
                groups.setdefault(schema, []).append(item)
        if unrouted:
            self.storage.store_unrouted(unrouted)
            tally.unrouted += len(unrouted)
            tally.settled += [item.incoming for item in unrouted]
        if groups:
            self._note(self._store_limited(groups, patience_ms), tally)

    def _judged(self, batch: Sequence[Incoming]) -> list[Judged | Busy]:
        return self._judge.judge(batch, self.parked.add)

    def schema_of(self, item: Judged) -> str | None:
        """Whose the message is: its device's tenant's, or the one that its topic names; None: nobody's."""
        if item.spec is not None:
            return item.spec.tenant.schema
        tenant = self.router.tenant_named(envelope.segment_of(item.incoming.topic))
        return tenant.schema if tenant else None

    def _store_limited(self, groups: dict[str, list[Judged]], patience_ms: int | None) -> list[_Settled]:
        """Store what is within the limits; what is not stored has not used them up."""
        within = {schema: self._judge.limit(items, replayed=False) for schema, items in groups.items()}
        try:
            settled = self._store(within, patience_ms)
        except BaseException:
            # Some of it may be stored all the same: its commit was not heard of, or it is another tenant's.
            self._latest.doubt()
            for items in within.values():
                self._judge.give_back(items, replayed=False)
            raise
        done = {part.schema for part in settled}
        for schema, items in within.items():
            if schema not in done and schema in self._held:
                self._judge.give_back(items, replayed=False)
        return settled

    def _store(self, groups: dict[str, list[Judged]], patience_ms: int | None) -> list[_Settled]:
        """All tenants together, or, where that cannot be, each by itself."""
        if patience_ms is None:
            try:
                outcomes = self.storage.store_together(groups)
                return [_Settled(schema, outcomes[schema], groups[schema]) for schema in groups]
            except Conflict:
                pass
            except psycopg.Error as error:
                if _is_lost(error):
                    raise
                logger.info("A batch of %d tenants is stored tenant by tenant: %s", len(groups), error)
        settled = []
        for schema, items in groups.items():
            try:
                settled += self._store_tenant(schema, items, patience_ms)
            except psycopg.Error as error:
                if not is_busy(error):
                    raise
                logger.warning("%s is locked: its messages wait", schema)
                self._hold(schema, [item.incoming for item in items])
        return settled

    def _store_tenant(self, schema: str, items: list[Judged], patience_ms: int | None) -> list[_Settled]:
        """The tenant's messages stored together, or, where one of them cannot be, one by one."""
        try:
            return [_Settled(schema, self.storage.store(schema, items, patience_ms), items)]
        except psycopg.Error as error:
            if _is_lost(error) or is_busy(error):
                raise
            logger.warning("A batch of %d messages of %s cannot be stored together: %s", len(items), schema, error)
            # Perhaps the tenant's tables or devices changed under the cache.
            self.router.forget(schema)
            self.storage.forget(schema)
        # Should the tenant be locked half-way, what is stored by then is not noted.
        self._latest.doubt()
        return [settled for item in items for settled in self._store_alone(item)]

    def _store_alone(self, item: Judged) -> list[_Settled]:
        """One message, as it is registered now; the one that PostgreSQL refuses goes to staff, with its words."""
        again = self._judged([item.incoming])[0]
        if isinstance(again, Busy):
            self._hold(again.schema, [item.incoming])
            return []
        schema = self.schema_of(again)
        try:
            if schema is not None:
                return [_Settled(schema, self.storage.store(schema, [again]), [again])]
            self.storage.store_unrouted([again])  # type: ignore[list-item]  # what is accepted has a tenant
        except psycopg.Error as error:
            if _is_lost(error) or is_busy(error):
                raise
            logger.exception("A message on %s cannot be stored", item.incoming.topic)
            refusal = Refused("malformed", f"PostgreSQL cannot store the message: {error}")
            self.storage.store_unrouted([RefusedItem(item.incoming, None, refusal)])
        return [_Settled("", Outcome(), [item])]

    def _hold(self, schema: str, waiting: Sequence[Incoming]) -> None:
        """Keep messages until their tenant's tables are free."""
        self._held.setdefault(schema, []).extend(waiting)

    def _note(self, settled: Sequence[_Settled], tally: Tally) -> None:
        """The newest values and presence hear of what is stored; then it may be acknowledged."""
        for part in settled:
            if part.outcome.readings:
                self._latest.note_all(part.schema, part.outcome.readings, EPOCH_MICROS)
        signs: list[Sign] = []
        for part in settled:
            signs += signs_of(part.outcome)
        busy = self._presence.record(signs) if signs else set()
        for part in settled:
            if part.schema in busy:
                # Stored, but not told: told as duplicates, later.
                self._hold(part.schema, [item.incoming for item in part.items])
                continue
            outcome = part.outcome
            for item in outcome.stored:
                if item.verdict.signature == 2 and item.spec.signature_floor < 2:
                    self.router.raise_floor(item.spec.uuid)
            tally.stored += len(outcome.stored)
            tally.duplicates += len(outcome.duplicates)
            tally.quarantined += len(outcome.quarantined)
            tally.limited += len(outcome.limited)
            tally.settled += [item.incoming for item in part.items]


def build_ingest() -> Ingest:
    """The pipeline on the configured servers."""
    store, storage = SecretStore("listener"), Storage(conninfo())
    return Ingest(
        Router(ttl=settings.INGEST_SPEC_TTL, on_renamed_series=storage.forget),
        Keyring(store, soft_ttl=settings.KEY_CACHE_SOFT_TTL, hard_ttl=settings.KEY_CACHE_HARD_TTL),
        Limiter(),
        storage,
        PresenceRecorder(grace_seconds=settings.PRESENCE_WILL_GRACE_SECONDS, flush_seconds=_FLUSH_SECONDS),
        LatestRecorder(),
    )


def _is_lost(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not is_busy(error)
