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
from .storage import Conflict, Incoming, Judged, Outcome, Packed, RefusedItem, Storage
from .storage.binary import EPOCH_MICROS

logger = logging.getLogger(__name__)

# A tenant whose tables are locked is tried again so often, so many messages at a time, without much waiting.
_HELD_SECONDS = 0.25
_HELD_FIRST = 20
_HELD_BATCH = 1000
_HELD_PATIENCE_MS = 5
_AGAIN_PATIENCE_MS = 10
# Limits are leased this often.
_FLUSH_SECONDS = 0.5
# Newest values, and signs of life of devices known to be online, are told to Redis together this often: what that costs
# grows with the devices that were heard, not with their messages, and the listener waits for it.
_TELL_SECONDS = 1.0


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
    tenants: int = 0  # how many it was of
    settled: list[Incoming] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    """A judged batch on its way into PostgreSQL."""

    told: list[Incoming] = field(default_factory=list)  # hints, of which nothing is stored
    groups: dict[str, list[Judged]] = field(default_factory=dict)  # by schema, held to the limits
    unrouted: list[RefusedItem] = field(default_factory=list)
    busy: dict[str, list[Incoming]] = field(default_factory=dict)  # by schema, of tenants whose tables are locked
    risen: set[int] = field(
        default_factory=set
    )  # (UUIDs' numbers) devices that it has the first message of version 2 from
    packed: Packed | None = None
    error: Exception | None = None  # why it could not be sent


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
        self._tell_at = 0.0
        # Tenants with messages that this process parked for want of a key.
        self.parked: set[str] = set()
        # Messages of tenants whose tables are locked, in the order in which they came.
        self._held: dict[str, list[Incoming]] = {}
        self._retry_held_at = 0.0
        # Those of them whose tables were found to be free.
        self._free: set[str] = set()
        self._sent: _Batch | None = None

    @property
    def held(self) -> int:
        """How many messages wait for their tenant's tables."""
        return sum(map(len, self._held.values()))

    @property
    def is_storing(self) -> bool:
        """Whether a batch was sent that is not settled yet."""
        return self._sent is not None

    @property
    def answering(self) -> int | None:
        """The socket that PostgreSQL answers on when it has stored what was sent; None: there will be no answer."""
        return self.storage.answering

    def process(self, batch: Sequence[Incoming]) -> Tally:
        """Judge, store, and take note of presence: for who has nothing to do meanwhile. See `advance`."""
        self.advance(batch)
        return self.advance(())

    def advance(self, batch: Sequence[Incoming]) -> Tally:
        """Judge a batch and send it to be stored, and settle the one that was sent by the call before.

        Returns what became of that one: PostgreSQL stores one batch while the next is judged. Without a batch the
        former is only settled. Raises what a lost database raises; nothing of either may be acknowledged then:
        `let_go`, and try both again.
        """
        coming = self._make_ready(batch) if batch else None
        former, self._sent = self._sent, None
        try:
            settled = self._receive(former) if former else []
        except BaseException:
            if coming:
                self._give_back(coming)
            raise
        if coming:
            self._send(coming)
        tally = Tally()
        if former:
            self._note(former, settled, tally)
        return tally

    def let_go(self) -> None:
        """Give up what was sent, and the connection: it may be stored all the same, and is tried again."""
        sent, self._sent = self._sent, None
        if sent:
            self._latest.doubt()
            self._give_back(sent)
        self.storage.close()

    @property
    def is_retry_due(self) -> bool:
        """Whether it is time for `retry_held`."""
        return bool(self._held) and time.monotonic() >= self._retry_held_at

    def retry_held(self) -> Tally:
        """Try again what is held, when it is time. Raises as `advance` does. Nothing may be on its way."""
        tally = Tally()
        if self.is_retry_due:
            self._retry_held_at = time.monotonic() + _HELD_SECONDS
            for schema in list(self._held):
                waiting = self._held.pop(schema)
                # A few show whether the tables are free: to judge all of them for nothing would make others wait.
                size = _HELD_BATCH if schema in self._free else _HELD_FIRST
                try:
                    batch = self._judged(waiting[:size])
                    self._note(batch, self._receive(batch, _HELD_PATIENCE_MS), tally)
                except BaseException:
                    self._held[schema] = waiting
                    raise
                self._free.discard(schema)
                if rest := waiting[size:]:
                    if schema not in self._held:
                        self._free.add(schema)
                        self._retry_held_at = 0.0
                    self._hold(schema, rest)
        return tally

    def drop_held(self) -> None:
        """Forget what is held: the connection is gone, and the broker will send it again."""
        self._held.clear()
        self._free.clear()

    def tick(self, *, last: bool = False) -> None:
        """What is due between batches, or, the `last` time, everything. Raises as `process` does."""
        self._presence.flush(now=last)
        now = time.monotonic()
        if last or now >= self._flush_at:
            self._flush_at = now + _FLUSH_SECONDS
            self._judge.flush()
        if last or now >= self._tell_at:
            self._tell_at = now + _TELL_SECONDS
            self._latest.flush()

    def judge_again(self, batch: Sequence[Incoming]) -> list[Judged | Busy]:
        """What messages are now that came before: nothing is stored."""
        return self._judge.judge(batch, self.parked.add, set())

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

    # --- judging ----------------------------------------------------------------------------------------------

    def _make_ready(self, batch: Sequence[Incoming]) -> _Batch:
        """All that can be done for a batch while another is on its way."""
        told = [incoming for incoming in batch if hints.is_hint(incoming)]
        if told:
            hints.take(told, self.router.resolve)
            batch = [incoming for incoming in batch if not hints.is_hint(incoming)]
        ready = self._judged(batch)
        ready.told = told
        ready.packed = self.storage.pack(ready.groups)
        return ready

    def _judged(self, batch: Sequence[Incoming]) -> _Batch:
        judged = _Batch()
        if self._sent:
            judged.risen |= self._sent.risen
        groups: dict[str, list[Judged]] = {}
        for item in self._judge.judge(batch, self.parked.add, judged.risen):
            schema = item.schema if isinstance(item, Busy) else self.schema_of(item)
            if schema is None:
                judged.unrouted.append(item)  # type: ignore[arg-type]  # what is accepted has a tenant
            elif isinstance(item, Busy) or schema in judged.busy:
                judged.busy.setdefault(schema, []).append(item.incoming)
            else:
                groups.setdefault(schema, []).append(item)
        judged.groups = {schema: self._judge.limit(items, replayed=False) for schema, items in groups.items()}
        return judged

    def schema_of(self, item: Judged) -> str | None:
        """Whose the message is: its device's tenant's, or the one that its topic names; None: nobody's."""
        if item.spec is not None:
            return item.spec.tenant.schema
        tenant = self.router.tenant_named(envelope.segment_of(item.incoming.topic))
        return tenant.schema if tenant else None

    # --- storing ----------------------------------------------------------------------------------------------

    def _send(self, batch: _Batch) -> None:
        """Send a batch; what goes wrong is found when it is received."""
        for schema in self._held.keys() & batch.groups.keys():
            # Behind those that wait already.
            items = batch.groups.pop(schema)
            self._judge.give_back(items, replayed=False)
            batch.busy[schema] = [item.incoming for item in items] + batch.busy.get(schema, [])
            batch.packed = None
        try:
            if batch.groups:
                batch.packed = batch.packed or self.storage.pack(batch.groups)
                self.storage.send(batch.packed)
        except (Conflict, psycopg.Error) as error:
            batch.error = error
        self._sent = batch

    def _receive(self, batch: _Batch, patience_ms: int | None = None) -> list[_Settled]:
        """What became of what was sent; with `patience_ms`, what becomes of what was not, so long waiting for locks.

        What is not stored has not used up any limit.
        """
        try:
            settled = self._stored(batch) if patience_ms is None else self._store_each(batch.groups, patience_ms)
            if batch.unrouted:
                self.storage.store_unrouted(batch.unrouted)
        except BaseException:
            # Some of it may be stored all the same: its commit was not heard of, or it is another tenant's.
            self._latest.doubt()
            self._give_back(batch)
            raise
        for schema, waiting in batch.busy.items():
            self._hold(schema, waiting)
        return settled

    def _stored(self, batch: _Batch) -> list[_Settled]:
        """All tenants together, or, where that cannot be, each by itself."""
        try:
            if batch.error is not None:
                raise batch.error
            outcomes = self.storage.receive(batch.packed) if batch.packed and batch.groups else {}
            return [_Settled(schema, outcomes[schema], items) for schema, items in batch.groups.items()]
        except Conflict:
            pass
        except psycopg.Error as error:
            if _is_lost(error):
                raise
            logger.info("A batch of %d tenants is stored tenant by tenant: %s", len(batch.groups), error)
            if is_busy(error):
                # Everybody has waited for the locked one already.
                return self._store_each(batch.groups, _AGAIN_PATIENCE_MS)
        return self._store_each(batch.groups, None)

    def _store_each(self, groups: dict[str, list[Judged]], patience_ms: int | None) -> list[_Settled]:
        """Each tenant by itself. Those that are locked leave `groups`, and are held."""
        settled = []
        for schema, items in list(groups.items()):
            try:
                settled += self._store_tenant(schema, items, patience_ms)
            except psycopg.Error as error:
                if not is_busy(error):
                    raise
                logger.warning("%s is locked: its messages wait", schema)
                del groups[schema]
                self._judge.give_back(items, replayed=False)
                self._hold(schema, [item.incoming for item in items])
        return settled

    def _give_back(self, batch: _Batch) -> None:
        for items in batch.groups.values():
            self._judge.give_back(items, replayed=False)

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
        again = self.judge_again([item.incoming])[0]
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

    def _note(self, batch: _Batch, settled: Sequence[_Settled], tally: Tally) -> None:
        """The newest values and presence hear of what is stored; then it may be acknowledged."""
        tally.tenants = len(batch.groups)
        tally.unrouted += len(batch.unrouted)
        tally.settled += batch.told
        tally.settled += [item.incoming for item in batch.unrouted]
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
        PresenceRecorder(grace_seconds=settings.PRESENCE_WILL_GRACE_SECONDS, flush_seconds=_TELL_SECONDS),
        LatestRecorder(),
    )


def _is_lost(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not is_busy(error)
