"""A batch through the pipeline. What it returns from is safe: only then may it be acknowledged."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import psycopg
from django.conf import settings

from devices.services.presence import PresenceRecorder, Sign
from devices.services.secrets import SecretStore
from devices.services.specs import DeviceSpec
from tenants.database import conninfo

from . import envelope, hints, pipeline
from .envelope import Kind, Topic
from .keyring import Keyring, KeyUnavailable
from .pipeline import Accepted
from .refusal import Refused
from .routing import Router
from .storage import Incoming, Judged, Outcome, Storage
from .validation import Clock

logger = logging.getLogger(__name__)

_SIGNS = {Kind.TELEMETRY: "telemetry", Kind.BIRTH: "birth", Kind.WILL: "will"}


@dataclass(slots=True)
class Tally:
    """What became of a batch's messages, over all tenants; `unrouted` belong to none."""

    stored: int = 0
    duplicates: int = 0
    quarantined: int = 0
    unrouted: int = 0


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

    def process(self, batch: Sequence[Incoming], *, live: bool = True) -> Tally:
        """Judge, store, and (where the batch is `live`) take note of presence.

        Raises what a lost database raises; nothing may be acknowledged then, and the same batch is tried again.
        """
        by_schema: dict[str | None, list[Judged]] = {}
        hints.take((message for message in batch if hints.is_hint(message)), self.router.resolve)
        for item in self._judge_all([message for message in batch if not hints.is_hint(message)]):
            by_schema.setdefault(self._schema_of(item), []).append(item)
        tally = Tally()
        for schema, items in by_schema.items():
            if schema is None:
                self.storage.store_unrouted(items)
                tally.unrouted += len(items)
            else:
                self._settle(schema, items, tally, live)
        return tally

    def _judge_all(self, batch: Sequence[Incoming]) -> list[Judged]:
        opened = [self._open(incoming) for incoming in batch]
        specs = self.router.resolve(topic.uuid for topic in opened if isinstance(topic, Topic))
        judged = []
        for incoming, topic in zip(batch, opened, strict=True):
            if isinstance(topic, Refused):
                judged.append(Judged(incoming, None, topic))
            else:
                # Asked again for each message: a message before it may have raised the signature floor.
                spec = specs[topic.uuid] and (self.router.cached(topic.uuid) or specs[topic.uuid])
                judged.append(Judged(incoming, spec, self._judge(incoming, topic, spec)))
        return judged

    def _open(self, incoming: Incoming) -> Topic | Refused:
        try:
            return envelope.parse_topic(incoming.topic)
        except Refused as refusal:
            return refusal

    def _judge(self, incoming: Incoming, topic: Topic, spec: DeviceSpec | None) -> Accepted | Refused:
        try:
            envelope.check_size(incoming.payload, settings.INGEST_MAX_PAYLOAD)
            if spec is None:
                raise Refused("unknown_device", f"No device {topic.uuid} is registered.")
            keys = partial(self.keyring.get, spec.tenant.schema, spec.uuid)
            accepted = pipeline.judge(
                topic, incoming.topic, incoming.payload, spec, keys, incoming.received_at, self._clock
            )
        except Refused as refusal:
            return refusal
        except KeyUnavailable as error:
            if spec is not None:
                self.parked.add(spec.tenant.schema)
            return Refused("key_unavailable", f"Parked until Vault can be asked: {error}.")
        except Exception as error:  # one message that we cannot read must not stop all others
            logger.exception("A message on %s cannot be judged", incoming.topic)
            return Refused("malformed", f"The message cannot be read: {type(error).__name__}: {error}.")
        if accepted.signature == 2 and spec.signature_floor < 2:
            self.router.raise_floor(spec.uuid)
        return accepted

    def _schema_of(self, item: Judged) -> str | None:
        if item.spec is not None:
            return item.spec.tenant.schema
        tenant = self.router.tenant_named(envelope.segment_of(item.incoming.topic))
        return tenant.schema if tenant else None

    def _settle(self, schema: str, items: list[Judged], tally: Tally, live: bool) -> None:
        for outcome in self._store(schema, items):
            tally.stored += len(outcome.stored)
            tally.duplicates += len(outcome.duplicates)
            tally.quarantined += len(outcome.quarantined)
            if live:
                self._presence.record([sign for item in outcome.stored + outcome.duplicates if (sign := _sign(item))])

    def _store(self, schema: str, items: list[Judged]) -> list[Outcome]:
        """The tenant's messages stored together, or, where one of them cannot be, one by one."""
        try:
            return [self.storage.store(schema, items)]
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise
        except psycopg.Error as error:
            logger.warning("A batch of %d messages of %s cannot be stored together: %s", len(items), schema, error)
            # Perhaps the tenant's tables or devices changed under the cache.
            self.router.forget(schema)
            self.storage.forget(schema)
        return [self._store_alone(schema, item) for item in items]

    def _store_alone(self, schema: str, item: Judged) -> Outcome:
        """One message, as it is registered now; the one that PostgreSQL refuses goes to staff, with its words."""
        item = self._judge_all([item.incoming])[0]
        found = self._schema_of(item)
        try:
            if found is not None:
                return self.storage.store(found, [item])
            self.storage.store_unrouted([item])
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise
        except psycopg.Error as error:
            logger.exception("A message on %s cannot be stored", item.incoming.topic)
            refusal = Refused("malformed", f"PostgreSQL cannot store the message: {error}")
            self.storage.store_unrouted([Judged(item.incoming, None, refusal)])
        return Outcome()


def build_ingest() -> Ingest:
    """The pipeline on the configured servers."""
    store = SecretStore("listener")
    return Ingest(
        Router(ttl=settings.INGEST_SPEC_TTL),
        Keyring(store, soft_ttl=settings.KEY_CACHE_SOFT_TTL, hard_ttl=settings.KEY_CACHE_HARD_TTL),
        Storage(conninfo()),
        PresenceRecorder(grace_seconds=settings.PRESENCE_WILL_GRACE_SECONDS),
    )


def _sign(item: Judged) -> Sign | None:
    """What the message says of presence: late telemetry says nothing."""
    message, spec = item.verdict, item.spec
    if spec is None or isinstance(message, Refused) or message.late:
        return None
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
