"""A batch through the pipeline. What it says to be settled is safe: only then may it be acknowledged."""

import logging
import time
from collections.abc import Sequence

from django.conf import settings

from devices.services.presence.activity import PresenceEvent, PresenceRecorder
from devices.services.vault.secret_store import SecretStore
from telemetry.services.latest.values import LatestRecorder
from telemetry.services.limits.limiter import Limiter
from telemetry.services.lookups.keyring import Keyring
from telemetry.services.lookups.routing import Router
from telemetry.services.pipeline.results import Incoming, Judged, Outcome
from telemetry.services.storage.binary import EPOCH_MICROS
from telemetry.services.storage.tenant_writer import Storage
from tenants.infrastructure.database import conninfo

from .batch_preparation import Sorter
from .batch_writer import Storer
from .batches import Batch, Settled, Tally
from .locked_tenants import Held
from .presence_events import signs_of
from .validation import Busy, Judge

logger = logging.getLogger(__name__)

# How long the messages of a tenant whose tables were locked wait for them when they are tried again.
_HELD_PATIENCE_MS = 5
# Limits are leased this often.
_FLUSH_SECONDS = 0.5
# Newest values, and signs of life of devices known to be online, are told to Redis together this often: what that costs
# grows with the devices that were heard, not with their messages, and the listener waits for it.
_TELL_SECONDS = 1.0


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
        # Tenants with messages that this process parked for want of a key.
        self.parked: set[str] = set()
        self._judge = Judge(router, keyring, limiter)
        self._held = Held()
        self._sorter = Sorter(router, self._judge, lambda schema: self.parked.add(schema))
        self._storer = Storer(storage, self._sorter, self._judge, router, latest, self._held)
        # For what was put aside: where that is locked still, it stays there.
        self._still = Held()
        self._taker = Storer(storage, self._sorter, self._judge, router, latest, self._still)
        self._presence = presence
        self._latest = latest
        self._flush_at = 0.0
        self._tell_at = 0.0
        self._sent: Batch | None = None

    @property
    def held(self) -> int:
        """How many messages wait for their tenant's tables."""
        return len(self._held)

    @property
    def held_of(self) -> set[str]:
        """The schemas of tenants whose messages wait for their tables, here or aside."""
        return self._held.schemas

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
            settled = self._storer.receive(former) if former else []
        except BaseException:
            if coming:
                self._storer.give_back(coming)
            raise
        if coming:
            self._storer.send(coming)
            self._sent = coming
        tally = Tally()
        if former:
            self._note(former, settled, tally, self._held)
        return tally

    def let_go(self) -> None:
        """Give up what was sent, and the connection: it may be stored all the same, and is tried again."""
        sent, self._sent = self._sent, None
        if sent:
            self._latest.doubt()
            self._storer.give_back(sent)
        self.storage.close()

    @property
    def is_retry_due(self) -> bool:
        """Whether it is time for `retry_held`."""
        return self._held.is_due

    def retry_held(self) -> Tally:
        """Try again what is held, when it is time, and put aside what is too much. Raises as `advance` does.

        Nothing may be on its way.
        """
        tally = Tally()
        for schema in self._held.due():
            if self._held.is_aside(schema) and not self._take_back(schema, tally):
                continue
            with self._held.trying(schema) as messages:
                batch = self._sorter.sort(messages)
                self._note(batch, self._storer.store(batch, _HELD_PATIENCE_MS), tally, self._held)
        for schema in self._held.too_many():
            with self._held.putting_aside(schema) as messages:
                self.storage.put_aside(schema, messages)
            logger.warning("%s is locked: %d of its messages are put aside", schema, len(messages))
            tally.put_aside += len(messages)
            tally.settled += messages
        return tally

    def find_aside(self) -> None:
        """Look for messages that were put aside, by whomever. Raises as `advance` does. Nothing may be on its way."""
        for schema in self.storage.schemas_aside():
            self._held.note_aside(schema)

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
        if last or now >= self._tell_at:
            self._tell_at = now + _TELL_SECONDS
            self._latest.flush()

    def judge_again(self, batch: Sequence[Incoming]) -> list[Judged | Busy]:
        """What messages are now that came before: nothing is stored."""
        return self._sorter.again(batch)

    def within_limits(self, judged: Sequence[Judged], *, replayed: bool) -> list[Judged]:
        """The same, in their order, with what is over a limit refused or left uncounted."""
        return self._judge.limit(judged, replayed=replayed)

    def schema_of(self, item: Judged) -> str | None:
        """Whose the message is; None: nobody's. See `Sorter.schema_of`."""
        return self._sorter.schema_of(item)

    def note_readings(self, schema: str, outcome: Outcome) -> None:
        """Tell the newest values of what was stored outside of `process`."""
        if outcome.readings:
            self._latest.note_all(schema, outcome.readings, EPOCH_MICROS)

    def close(self) -> None:
        """Let go of the servers, after the last batch."""
        self._latest.close()
        self.keyring.close()
        self.storage.close()

    def _make_ready(self, messages: Sequence[Incoming]) -> Batch:
        """All that can be done for a batch while another is on its way."""
        batch = self._sorter.sort(messages, self._sent.risen if self._sent else ())
        batch.packed = self.storage.pack(batch.groups)
        return batch

    def _take_back(self, schema: str, tally: Tally) -> bool:
        """Store some of what was put aside; whether that was the last of it.

        It leaves when it is stored, and known to Redis: who is killed between the two has it stored once more, as
        duplicates.
        """
        with self.storage.taking_back(schema) as is_mine:
            if not is_mine:  # another listener takes it
                return False
            most = self._held.many(schema)
            messages = self.storage.first_aside(schema, most)
            if messages:
                taken, batch = Tally(), self._sorter.sort(messages, replayed=True)
                self._note(batch, self._taker.store(batch, _HELD_PATIENCE_MS), taken, self._still)
                self._still.clear()
                self.storage.drop_aside([message.mid for message in taken.settled])
                tally.taken_back += len(taken.settled)
                if len(taken.settled) < len(messages):  # still locked
                    return False
                self._held.note_free(schema)
        if len(messages) == most:
            return False
        self._held.note_none_aside(schema)
        return True

    def _note(self, batch: Batch, settled: Sequence[Settled], tally: Tally, held: Held) -> None:
        """The newest values and presence hear of what is stored; then it may be acknowledged."""
        tally.tenants = len(batch.groups)
        tally.unrouted += len(batch.unrouted)
        tally.settled += batch.told
        tally.settled += [item.incoming for item in batch.unrouted]
        for part in settled:
            if part.outcome.readings:
                self._latest.note_all(part.schema, part.outcome.readings, EPOCH_MICROS)
        signs: list[PresenceEvent] = []
        for part in settled:
            signs += signs_of(part.outcome)
        busy = self._presence.record(signs) if signs else set()
        for part in settled:
            if part.schema in busy:
                # Stored, but not told: told as duplicates, later.
                held.hold(part.schema, [item.incoming for item in part.items])
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
