"""Stages 1 to 5 for a batch: every message with its device's route and keys, and within the tenant's limits."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from django.conf import settings

from devices.domain.specs import DeviceSpec
from devices.services.rotation.key_usage import KeyUsageRecorder
from telemetry.services.limits.limiter import Limiter, LimitHit, check_payload
from telemetry.services.lookups.keyring import Keyring, KeyUnavailable
from telemetry.services.lookups.routing import Route, Router
from telemetry.services.pipeline import form, processing
from telemetry.services.pipeline.contract import Clock
from telemetry.services.pipeline.form import Topic
from telemetry.services.pipeline.processing import Accepted
from telemetry.services.pipeline.refusal import Refused
from telemetry.services.pipeline.results import AcceptedItem, Incoming, Judged, LimitedItem, RefusedItem

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Busy:
    """A message that cannot be judged yet: its tenant's tables are locked."""

    incoming: Incoming
    schema: str


class Judge:
    """Says what messages are, without storing anything. Not shared between threads."""

    def __init__(self, router: Router, keyring: Keyring, limiter: Limiter) -> None:
        self._router = router
        self._keyring = keyring
        self._limiter = limiter
        self._key_usage = KeyUsageRecorder()
        self._max_payload = settings.INGEST_MAX_PAYLOAD
        self._clock = Clock(
            live=timedelta(seconds=settings.INGEST_LIVE_SECONDS),
            future=timedelta(seconds=settings.INGEST_FUTURE_SECONDS),
        )

    def judge(
        self, batch: Sequence[Incoming], on_parked: Callable[[str], None], risen: set[int]
    ) -> list[Judged | Busy]:
        """What each message is, in their order. `on_parked` hears of the tenants of those that want for a key.

        `risen` are the devices (their UUIDs' numbers) that changed to version 2 within messages that are not stored
        yet; those of this batch are added. The cache hears of it when they are stored: what is judged again, because
        it could not be stored, is judged by the same floor.
        """
        topics = [_open(incoming) for incoming in batch]
        found = self._router.routes([topic.uuid for topic in topics if isinstance(topic, Topic)])
        self._keyring.prefetch({id(route): route.spec for route in found if route.spec is not None}.values())
        routes = iter(found)
        judged: list[Judged | Busy] = []
        for incoming, topic in zip(batch, topics, strict=True):
            if isinstance(topic, Refused):
                judged.append(RefusedItem(incoming, None, topic))
            else:
                judged.append(self._judge(incoming, topic, next(routes), risen, on_parked))
        return judged

    def limit(self, judged: Sequence[Judged], *, replayed: bool) -> list[Judged]:
        """The same, but for what is over its tenant's limits; `give_back` what is not stored then."""
        accepted = [item for item in judged if isinstance(item, AcceptedItem)]
        hits = self._limiter.admit(accepted, replayed=replayed)
        if not hits:
            return list(judged)
        verdicts = iter(_limited(accepted, hits))
        return [next(verdicts) if isinstance(item, AcceptedItem) else item for item in judged]

    def give_back(self, items: Sequence[Judged], *, replayed: bool) -> None:
        """These could not be stored, and will be judged again: they have not used up any limit."""
        self._limiter.release([item for item in items if isinstance(item, AcceptedItem)], {}, replayed=replayed)

    def flush(self) -> None:
        """What is due about twice a second."""
        self._limiter.flush()
        self._key_usage.flush()

    def _judge(
        self, incoming: Incoming, topic: Topic, route: Route, risen: set[int], on_parked: Callable[[str], None]
    ) -> Judged | Busy:
        spec = route.spec
        if spec is None and route.busy:
            return Busy(incoming, route.busy)
        if risen and spec is not None and spec.number in risen:
            spec = replace(spec, signature_floor=2)
        try:
            accepted = self._verified(incoming, topic, spec)
        except Refused as refusal:
            if refusal.reason == "bad_signature" and spec is not None:
                again = self._router.read_again(topic.uuid)
                if again is not None and again.spec is not None and again.spec.keys != spec.keys:
                    return self._judge(incoming, topic, again, risen, on_parked)
            return RefusedItem(incoming, spec, refusal)
        except KeyUnavailable as error:
            if spec is not None:
                on_parked(spec.tenant.schema)
            return RefusedItem(incoming, spec, Refused("key_unavailable", f"Parked until Vault can be asked: {error}."))
        except Exception as error:  # one message that we cannot read must not stop all others
            logger.exception("A message on %s cannot be judged", incoming.topic)
            detail = f"The message cannot be read: {type(error).__name__}: {error}."
            return RefusedItem(incoming, spec, Refused("malformed", detail))
        assert spec is not None  # noqa: S101 (for the type checker: without one it was refused)
        if accepted.signature == 2 and spec.signature_floor < 2:
            risen.add(spec.number)
        if accepted.key_version != spec.key_in_use and accepted.signature:
            self._key_usage.record(spec, accepted.key_version, incoming.received_at)
        return AcceptedItem(incoming, spec, accepted)

    def _verified(self, incoming: Incoming, topic: Topic, spec: DeviceSpec | None) -> Accepted:
        form.check_size(incoming.payload, self._max_payload)
        if spec is None:
            raise Refused("unknown_device", f"No device {topic.uuid} is registered.")
        check_payload(incoming.payload, spec.tenant.limits)
        keys = partial(self._keyring.get, spec.tenant.schema, topic.uuid)
        return processing.judge(topic, incoming.topic, incoming.payload, spec, keys, incoming.received_at, self._clock)


def _open(incoming: Incoming) -> Topic | Refused:
    try:
        return form.parse_topic(incoming.topic)
    except Refused as refusal:
        return refusal


def _limited(accepted: Sequence[AcceptedItem], hits: dict[int, LimitHit]) -> Iterator[Judged]:
    for position, item in enumerate(accepted):
        hit = hits.get(position)
        if hit is None:
            yield item
        elif hit.kind == "quota":
            yield RefusedItem(item.incoming, item.spec, hit.refusal())
        else:
            yield LimitedItem(item.incoming, item.spec, item.verdict, hit.limit, hit.device_id)
