"""A batch through the pipeline. What it returns from is safe: only then may it be acknowledged."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import chain
from uuid import UUID

import psycopg
from django.conf import settings

from devices.services.presence import PresenceRecorder, Sign
from devices.services.secrets import SecretStore
from devices.services.specs import DeviceSpec
from tenants.database import conninfo, is_busy

from . import envelope, hints, pipeline
from .envelope import Kind, Topic
from .keyring import Keyring, KeyUnavailable
from .pipeline import Accepted
from .refusal import Refused
from .routing import Route, Router
from .storage import AcceptedItem, Conflict, Incoming, Judged, Outcome, RefusedItem, Storage
from .validation import Clock

logger = logging.getLogger(__name__)

_SIGNS = {Kind.TELEMETRY: "telemetry", Kind.BIRTH: "birth", Kind.WILL: "will"}
# A tenant whose tables are locked is tried again so often, so many messages at a time, without much waiting.
_HELD_SECONDS = 0.25
_HELD_BATCH = 1000
_HELD_PATIENCE_MS = 5
# Signs of life of devices known to be online are sent to Redis together, this often.
_PRESENCE_SECONDS = 0.5


@dataclass(slots=True)
class Busy:
    """A message that cannot be judged yet: its tenant's tables are locked."""

    incoming: Incoming
    schema: str


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

    def __init__(self, router: Router, keyring: Keyring, storage: Storage, presence: PresenceRecorder) -> None:
        self.router = router
        self.keyring = keyring
        self.storage = storage
        self._presence = presence
        self._clock = Clock(
            live=timedelta(seconds=settings.INGEST_LIVE_SECONDS),
            future=timedelta(seconds=settings.INGEST_FUTURE_SECONDS),
        )
        # Tenants with messages that this process parked for want of a key.
        self.parked: set[str] = set()
        # Messages of tenants whose tables are locked, in the order in which they came.
        self._held: dict[str, list[Incoming]] = {}
        self._retry_held_at = 0.0

    @property
    def held(self) -> int:
        """How many messages wait for their tenant's tables."""
        return sum(map(len, self._held.values()))

    def process(self, batch: Sequence[Incoming], *, live: bool = True) -> Tally:
        """Judge, store, and (where the batch is `live`) take note of presence.

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
        self._settle(self._judge_all(routed), tally, live)
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
                    self._settle(
                        self._judge_all(waiting[:_HELD_BATCH]), tally, live=True, patience_ms=_HELD_PATIENCE_MS
                    )
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

    # --- judging ----------------------------------------------------------------------------------------------

    def _judge_all(self, batch: Sequence[Incoming]) -> list[Judged | Busy]:
        topics = [_open(incoming) for incoming in batch]
        found = self.router.routes([topic.uuid for topic in topics if isinstance(topic, Topic)])
        self.keyring.prefetch({id(route): route.spec for route in found if route.spec is not None}.values())
        routes = iter(found)
        # Devices that changed to version 2 within these messages. The cache hears of it when they are stored:
        # what is judged again, because it could not be stored, is judged by the same floor.
        risen: set[UUID] = set()
        judged: list[Judged | Busy] = []
        for incoming, topic in zip(batch, topics, strict=True):
            if isinstance(topic, Refused):
                judged.append(RefusedItem(incoming, None, topic))
            else:
                judged.append(self._judge(incoming, topic, next(routes), risen))
        return judged

    def _judge(self, incoming: Incoming, topic: Topic, route: Route, risen: set[UUID]) -> Judged | Busy:
        spec = route.spec
        if spec is None and route.busy:
            return Busy(incoming, route.busy)
        if risen and spec is not None and spec.uuid in risen:
            spec = replace(spec, signature_floor=2)
        try:
            accepted = self._verified(incoming, topic, spec)
        except Refused as refusal:
            return RefusedItem(incoming, spec, refusal)
        except KeyUnavailable as error:
            if spec is not None:
                self.parked.add(spec.tenant.schema)
            return RefusedItem(incoming, spec, Refused("key_unavailable", f"Parked until Vault can be asked: {error}."))
        except Exception as error:  # one message that we cannot read must not stop all others
            logger.exception("A message on %s cannot be judged", incoming.topic)
            detail = f"The message cannot be read: {type(error).__name__}: {error}."
            return RefusedItem(incoming, spec, Refused("malformed", detail))
        assert spec is not None  # noqa: S101 (for the type checker: without one it was refused)
        if accepted.signature == 2 and spec.signature_floor < 2:
            risen.add(spec.uuid)
        return AcceptedItem(incoming, spec, accepted)

    def _verified(self, incoming: Incoming, topic: Topic, spec: DeviceSpec | None) -> Accepted:
        envelope.check_size(incoming.payload, settings.INGEST_MAX_PAYLOAD)
        if spec is None:
            raise Refused("unknown_device", f"No device {topic.uuid} is registered.")
        keys = partial(self.keyring.get, spec.tenant.schema, spec.uuid)
        return pipeline.judge(topic, incoming.topic, incoming.payload, spec, keys, incoming.received_at, self._clock)

    # --- storing ----------------------------------------------------------------------------------------------

    def _settle(
        self, judged: Sequence[Judged | Busy], tally: Tally, live: bool, patience_ms: int | None = None
    ) -> None:
        groups: dict[str, list[Judged]] = {}
        unrouted: list[RefusedItem] = []
        for item in judged:
            schema = item.schema if isinstance(item, Busy) else self._schema_of(item)
            if schema is None:
                unrouted.append(item)  # type: ignore[arg-type]  # what is accepted has a tenant
            elif isinstance(item, Busy) or schema in self._held:
                self._hold(schema, [item.incoming], live)
            else:
                groups.setdefault(schema, []).append(item)
        if unrouted:
            self.storage.store_unrouted(unrouted)
            tally.unrouted += len(unrouted)
            tally.settled += [item.incoming for item in unrouted]
        if groups:
            self._note(self._store(groups, patience_ms, live), tally, live)

    def _schema_of(self, item: Judged) -> str | None:
        if item.spec is not None:
            return item.spec.tenant.schema
        tenant = self.router.tenant_named(envelope.segment_of(item.incoming.topic))
        return tenant.schema if tenant else None

    def _store(self, groups: dict[str, list[Judged]], patience_ms: int | None, live: bool) -> list[_Settled]:
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
                self._hold(schema, [item.incoming for item in items], live)
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
        return [settled for item in items for settled in self._store_alone(item)]

    def _store_alone(self, item: Judged) -> list[_Settled]:
        """One message, as it is registered now; the one that PostgreSQL refuses goes to staff, with its words."""
        again = self._judge_all([item.incoming])[0]
        if isinstance(again, Busy):
            self._hold(again.schema, [item.incoming], True)
            return []
        schema = self._schema_of(again)
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

    def _hold(self, schema: str, waiting: Sequence[Incoming], live: bool) -> None:
        """Keep messages until their tenant's tables are free; what is replayed is kept where it is."""
        if live:
            self._held.setdefault(schema, []).extend(waiting)

    def _note(self, settled: Sequence[_Settled], tally: Tally, live: bool) -> None:
        """Presence hears of what is stored; then it may be acknowledged."""
        signs: list[Sign] = []
        if live:
            for part in settled:
                signs += _signs(part.outcome)
        busy = self._presence.record(signs) if signs else set()
        for part in settled:
            if part.schema in busy:
                # Stored, but not told: told as duplicates, later.
                self._hold(part.schema, [item.incoming for item in part.items], live)
                continue
            outcome = part.outcome
            for item in outcome.stored:
                if item.verdict.signature == 2 and item.spec.signature_floor < 2:
                    self.router.raise_floor(item.spec.uuid)
            tally.stored += len(outcome.stored)
            tally.duplicates += len(outcome.duplicates)
            tally.quarantined += len(outcome.quarantined)
            tally.limited += outcome.limited
            tally.settled += [item.incoming for item in part.items]


def build_ingest() -> Ingest:
    """The pipeline on the configured servers."""
    store = SecretStore("listener")
    return Ingest(
        Router(ttl=settings.INGEST_SPEC_TTL),
        Keyring(store, soft_ttl=settings.KEY_CACHE_SOFT_TTL, hard_ttl=settings.KEY_CACHE_HARD_TTL),
        Storage(conninfo()),
        PresenceRecorder(grace_seconds=settings.PRESENCE_WILL_GRACE_SECONDS, flush_seconds=_PRESENCE_SECONDS),
    )


def _open(incoming: Incoming) -> Topic | Refused:
    try:
        return envelope.parse_topic(incoming.topic)
    except Refused as refusal:
        return refusal


def _is_lost(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not is_busy(error)


def _signs(outcome: Outcome) -> list[Sign]:
    """What the messages say of presence: births, wills, and of each device's live telemetry the newest."""
    newest: dict[int, AcceptedItem] = {}
    signs = []
    for item in chain(outcome.duplicates, outcome.stored):
        message = item.verdict
        if message.late:
            continue
        if message.topic.kind is Kind.TELEMETRY:
            known = newest.get(item.spec.device_id)
            if known is None or known.incoming.received_at <= item.incoming.received_at:
                newest[item.spec.device_id] = item
        else:
            signs.append(_sign(item))
    return signs + [_sign(item) for item in newest.values()]


def _sign(item: AcceptedItem) -> Sign:
    message, spec = item.verdict, item.spec
    return Sign(
        kind=_SIGNS[message.topic.kind],  # type: ignore[arg-type]  # the literals of Sign.kind
        schema=spec.tenant.schema,
        device_id=spec.device_id,
        uuid=spec.uuid,
        at=item.incoming.received_at,
        timeout=spec.timeout_seconds,
        session=message.session,
        session_at=message.time,
    )
