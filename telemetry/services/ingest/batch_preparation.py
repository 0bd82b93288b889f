"""Steps 1 to 6 for a batch: messages validated, grouped by tenant, and within the limits. Nothing is stored."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast
from uuid import UUID

from django.conf import settings

from devices.domain.specs import DeviceSpec
from devices.services.provisioning import ownership
from devices.services.rotation.key_usage import KeyUsageRecorder
from telemetry.services.limits.limiter import ExceededLimit, Limiter
from telemetry.services.limits.refusals import UNREGISTERED, Publisher, RefusalLimiter
from telemetry.services.lookups.keyring import Keyring, KeyUnavailable
from telemetry.services.lookups.routing import Route, Router
from telemetry.services.pipeline import form
from telemetry.services.pipeline.contract import ClockTolerance
from telemetry.services.pipeline.results import (
    AcceptedItem,
    Incoming,
    LimitedItem,
    MessageResult,
    Refusal,
    RefusedItem,
    Topic,
    ValidatedMessage,
    VerifiedContact,
)
from telemetry.services.pipeline.validation import check_child, names_other_tenant, validate
from tenants.infrastructure.byte_bounded_cache import ByteBoundedCache

from . import broker_events
from .batches import LockedMessage, PreparedBatch
from .clock_limits import clock_tolerance
from .message_ownership import UnprovenMessage
from .repeated_messages import RepeatedMessages, like_first

logger = logging.getLogger(__name__)

_NO_PAYLOAD = "The payload is not stored, because the topic names another tenant."
_TOPIC_CACHE_BYTES = 8 * 2**20
# The publisher did nothing wrong, and the message is promised to be replayed.
_NOT_CHARGED = frozenset({"key_unavailable", "quota_exceeded"})


class BatchPreparer:
    """Prepares batches while another one is being stored. Not shared between threads."""

    def __init__(
        self,
        router: Router,
        keyring: Keyring,
        limiter: Limiter,
        refusals: RefusalLimiter,
        on_deferred: Callable[[str], None],
        *,
        not_charged: frozenset[str] = frozenset(),
        repeats: RepeatedMessages | None = None,
    ) -> None:
        """`on_deferred` is called with the schemas of messages whose key is unavailable.

        `not_charged`: further reasons of refusals that are not charged to the device, because anyone can cause them.
        `repeats` finds messages that are charged to no limit, because anyone can send them who has captured them.
        """
        self._router = router
        self._keyring = keyring
        self._limiter = limiter
        self._refusals = refusals
        self._on_deferred = on_deferred
        self._not_charged = _NOT_CHARGED | not_charged
        self._repeats = repeats
        self._key_usage = KeyUsageRecorder()
        # A device publishes on the same few topics for its whole life: those of accepted messages are not parsed again.
        self.topics: ByteBoundedCache[str, Topic] = ByteBoundedCache(_TOPIC_CACHE_BYTES, _topic_size)
        self._max_payload = settings.INGEST_MAX_PAYLOAD
        self._clock: ClockTolerance | None = None

    def prepare(
        self, messages: Sequence[Incoming], upgraded_devices: Iterable[int] = (), *, replayed: bool = False
    ) -> PreparedBatch:
        """Return the messages by tenant, within the limits.

        `upgraded_devices`: those of the batch in flight, as in `validate`. `replayed`: as in `apply_limits`.
        """
        batch = PreparedBatch(upgraded_devices=set(upgraded_devices), replayed=replayed)
        if topics := self._known_topics(messages):
            items = self._validate_known(messages, topics, batch.upgraded_devices)
        else:
            items = self.validate(self._without_internal(messages, batch), batch.upgraded_devices)
        groups = self._by_schema(items, batch)
        if self._repeats is not None and not replayed:
            batch.groups = self._apply_limits_once(groups, batch, self._repeats)
        else:
            batch.groups = {schema: self.apply_limits(items, replayed=replayed) for schema, items in groups.items()}
        if not replayed:
            self._charge_refusals(batch)
        return batch

    def validate(
        self, messages: Sequence[Incoming], upgraded_devices: set[int] | None = None
    ) -> list[MessageResult | LockedMessage]:
        """Return each message's result, in their order, before the limits.

        `upgraded_devices` (their UUIDs' numbers) changed to version 2 within messages that are not stored yet; those
        of this batch are added. The cache is changed when they are stored: a message that could not be stored is
        validated again with the same minimum version.
        """
        upgraded_devices = set() if upgraded_devices is None else upgraded_devices
        known = self.topics.get
        topics = [known(incoming.topic) or _parse_topic(incoming) for incoming in messages]
        publishers = [
            topic.uuid if isinstance(topic, Topic) else form.publisher_of(incoming.topic)
            for incoming, topic in zip(messages, topics, strict=True)
        ]
        self._load_children(topics)
        routes = iter(self._routes([uuid for uuid in publishers if uuid is not None]))
        results: list[MessageResult | LockedMessage] = []
        for incoming, topic, uuid in zip(messages, topics, publishers, strict=True):
            route = next(routes) if uuid is not None else None
            if isinstance(topic, Topic) and route is not None:
                results.append(self._validate_one(incoming, topic, route, upgraded_devices))
            elif isinstance(topic, Refusal):
                results.append(_malformed(incoming, topic, route))
        return results

    def _known_topics(self, messages: Sequence[Incoming]) -> list[Topic]:
        """Return the messages' topics where all of them are those of accepted messages, else an empty list."""
        known = self.topics.get
        found = [known(incoming.topic) for incoming in messages]
        return cast(list[Topic], found) if all(found) else []

    def _without_internal(self, messages: Sequence[Incoming], batch: PreparedBatch) -> Sequence[Incoming]:
        """Return the messages without those of the broker and the platform, which the batch gets."""
        prefix = broker_events.INTERNAL_PREFIX
        batch.internal = [incoming for incoming in messages if incoming.topic.startswith(prefix)]
        if not batch.internal:
            return messages
        broker_events.apply(batch.internal, self._router.resolve)
        return [incoming for incoming in messages if not incoming.topic.startswith(prefix)]

    def _validate_known(
        self, messages: Sequence[Incoming], topics: Sequence[Topic], upgraded_devices: set[int]
    ) -> list[MessageResult | LockedMessage]:
        """Validate messages on topics of accepted ones, the usual batch: none of them needs to be parsed."""
        self._load_children(topics)
        routes = self._routes([topic.uuid for topic in topics])
        return [
            self._validate_one(incoming, topic, route, upgraded_devices)
            for incoming, topic, route in zip(messages, topics, routes, strict=True)
        ]

    def _routes(self, uuids: Sequence[UUID]) -> list[Route]:
        """Return the devices' routes, in their order, and read the keys of these devices that are not cached."""
        if self._clock is None:  # not at the start, when the database may be unavailable
            self._clock = clock_tolerance()
        routes = self._router.routes(uuids)
        self._keyring.prefetch({id(route): route.spec for route in routes if route.spec is not None}.values())
        return routes

    def _load_children(self, topics: Iterable[Topic | Refusal]) -> None:
        """Load the routes of gateways' children together: each is looked up by itself afterwards."""
        children = [topic.child for topic in topics if topic.__class__ is Topic and topic.child is not None]
        if children:
            self._router.routes(children)

    def apply_limits(self, items: Sequence[MessageResult], *, replayed: bool) -> list[MessageResult]:
        """Return the items, in their order, with those that exceed their tenant's limits refused or limited.

        `release_limits` must be called for items that are not stored then. `replayed` messages only meet the quota.
        """
        accepted = [item for item in items if isinstance(item, AcceptedItem)]
        exceeded = self._limiter.admit(accepted, replayed=replayed)
        if not exceeded:
            return list(items)
        for position, limit in exceeded.items():
            if limit.kind == "rate":
                publisher, is_own = _publisher_of(accepted[position]), limit.device_id is not None
                self._refusals.charge(publisher, limit.limit, limit.value, is_own=is_own)
        admitted = iter(_limited(accepted, exceeded))
        return [next(admitted) if isinstance(item, AcceptedItem) else item for item in items]

    def _apply_limits_once(
        self, groups: Mapping[str, Sequence[MessageResult]], batch: PreparedBatch, repeats: RepeatedMessages
    ) -> dict[str, list[MessageResult]]:
        """As `apply_limits` for messages that came for the first time; a copy of one of these shares its result."""
        limited = {}
        for schema, items in groups.items():
            first = repeats.find(schema, items)
            batch.repeated |= first.keys()
            charged = [item for item in items if item.incoming.mid not in first]
            results = {item.incoming.mid: item for item in self.apply_limits(charged, replayed=False)}
            limited[schema] = [
                results.get(item.incoming.mid) or like_first(item, results.get(first[item.incoming.mid]))
                for item in items
            ]
        return limited

    def release_limits(self, items: Sequence[MessageResult], batch: PreparedBatch) -> None:
        """Return the limits' tokens of items that could not be stored, and will be validated again."""
        accepted = [item for item in items if isinstance(item, AcceptedItem)]
        if batch.repeated:
            accepted = [item for item in accepted if item.incoming.mid not in batch.repeated]
        self._limiter.release(accepted, replayed=batch.replayed)

    def schema_of(self, item: MessageResult) -> str | None:
        """Return the schema of the message's device, never of a tenant that only its topic names; None: unrouted."""
        owner = item.owner if isinstance(item, RefusedItem) else item.spec
        return owner.tenant.schema if owner is not None else None

    def _by_schema(
        self, items: Iterable[MessageResult | LockedMessage], batch: PreparedBatch
    ) -> dict[str, list[MessageResult]]:
        """Return the items by schema, without those that belong to no tenant or a blocked one: the batch gets these."""
        groups: defaultdict[str, list[MessageResult]] = defaultdict(list)
        for item in items:
            if isinstance(item, AcceptedItem) and not batch.locked:  # the usual case
                groups[item.spec.tenant.schema].append(item)
                continue
            schema = item.schema if isinstance(item, LockedMessage) else self.schema_of(item)
            if schema is None:
                batch.unrouted.append(item)  # type: ignore[arg-type]  # an accepted message has a tenant
            elif isinstance(item, LockedMessage) or schema in batch.locked:
                batch.locked.setdefault(schema, []).append(item.incoming)
            else:
                groups[schema].append(item)
        return groups

    def flush(self) -> None:
        """Write limits and key uses to their stores; due about twice a second."""
        self._limiter.flush()
        self._refusals.drop_idle()
        self._key_usage.flush()

    def _charge_refusals(self, batch: PreparedBatch) -> None:
        """Charge the refused messages of the batch to their publishers, and refund the accepted ones of braked ones."""
        for refused in batch.unrouted:
            self._charge(refused, batch)
        is_braking = self._refusals.is_braking
        for items in batch.groups.values():
            for item in items:
                if isinstance(item, RefusedItem):
                    self._charge(item, batch)
                elif is_braking and isinstance(item, AcceptedItem):
                    self._refusals.refund(_publisher_of(item))

    def _charge(self, item: RefusedItem, batch: PreparedBatch) -> None:
        if item.result.reason in self._not_charged or item.incoming.mid in batch.repeated:
            return
        self._refusals.charge(_publisher_of(item))

    def _validate_one(
        self, incoming: Incoming, topic: Topic, route: Route, upgraded_devices: set[int]
    ) -> MessageResult | LockedMessage:
        spec = signer = route.spec
        if spec is None and route.locked_schema:
            return LockedMessage(incoming, route.locked_schema)
        if spec is None and (candidates := self._router.candidates_of(topic.uuid)):
            return self._validate_unproven(incoming, topic, candidates, upgraded_devices)
        if upgraded_devices and spec is not None and spec.number in upgraded_devices:
            spec = signer = replace(spec, min_signature_version=2)
        gateway = None
        if topic.child is not None and signer is not None:
            child = self._child_route(topic.child, signer)
            if child.spec is None and child.locked_schema == signer.tenant.schema:
                return LockedMessage(incoming, child.locked_schema)
            if child.spec is not None and child.spec.gateway == signer.number:
                spec, gateway = child.spec, signer
        try:
            message = self._validate_payload(incoming, topic, spec, signer)
        except Refusal as refusal:
            if refusal.reason == "bad_signature" and signer is not None:
                current = self._router.reload(topic.uuid)
                if current is not None and current.spec is not None and current.spec.keys != signer.keys:
                    return self._validate_one(incoming, topic, current, upgraded_devices)
            return _refused(incoming, topic, spec, refusal.detached(), gateway)
        except KeyUnavailable as error:
            unavailable = Refusal("key_unavailable", f"Deferred until Vault answers: {error}.")
            refused = _refused(incoming, topic, spec, unavailable, gateway)
            if refused.owner is not None:
                self._on_deferred(refused.owner.tenant.schema)
            return refused
        except Exception as error:  # one unreadable message must not stop all others
            logger.exception("A message on %s could not be validated", incoming.topic)
            detail = f"The message cannot be read: {type(error).__name__}: {error}."
            return _refused(incoming, topic, spec, Refusal("malformed", detail), gateway)
        assert spec is not None and signer is not None  # noqa: S101, PT018 (for the type checker: else it was refused)
        if message.signature == 2 and spec.min_signature_version < 2:
            upgraded_devices.add(spec.number)
        if message.key_version != signer.key_in_use and message.signature:
            self._key_usage.record(signer, message.key_version, incoming.received_at)
        if self.topics.get(incoming.topic) is None:
            self.topics.put(incoming.topic, topic)
        return AcceptedItem(incoming, spec, message, gateway)

    def _child_route(self, uuid: UUID, gateway: DeviceSpec) -> Route:
        """Return the route of a gateway's child as it is registered now: it may have become one a moment ago."""
        (route,) = self._router.routes([uuid])
        if route.spec is None or route.spec.gateway != gateway.number:
            route = self._router.reload(uuid) or route
        return route

    def _validate_unproven(
        self, incoming: Incoming, topic: Topic, candidates: Sequence[DeviceSpec], upgraded_devices: set[int]
    ) -> MessageResult | LockedMessage:
        """Return the result of a message whose UUID no tenant has proven: it proves it if a candidate's key signed it.

        Else it is refused, for the candidate that its topic names, or for staff.
        """
        signed = UnprovenMessage(incoming, topic, self._max_payload, self._keyring)
        for spec in candidates:
            if signed.is_signed_for(spec) and ownership.prove(topic.uuid, spec.tenant.schema):
                return self._validate_one(incoming, topic, self._router.read_again(topic.uuid), upgraded_devices)
        named = next((spec for spec in candidates if topic.segment and topic.segment in spec.tenant.segments), None)
        refusal = signed.refusal(is_named=named is not None)
        if refusal.reason == "key_unavailable" and named is not None:
            self._on_deferred(named.tenant.schema)
        return RefusedItem(incoming, named, refusal)

    def _validate_payload(
        self, incoming: Incoming, topic: Topic, spec: DeviceSpec | None, signer: DeviceSpec | None
    ) -> ValidatedMessage:
        """Return the message of the device `spec`, which `signer` signed: the device itself, or its gateway."""
        form.check_size(incoming.payload, self._max_payload, None if spec is None else spec.tenant.limits)
        if spec is None or signer is None:
            raise Refusal("unknown_device", f"The device {topic.uuid} is not registered.")
        gateway = signer if topic.child is not None else None
        if gateway is not None and spec is gateway:
            check_child(topic, None, gateway)
        keys = partial(self._keyring.get, spec.tenant.schema, topic.uuid)
        received_at, clock = incoming.received_at, self._clock
        assert clock is not None  # noqa: S101 (read with the routes)
        return validate(topic, incoming.topic, incoming.payload, spec, keys, received_at, clock, gateway)


def _publisher_of(item: AcceptedItem | RefusedItem) -> Publisher:
    spec = item.gateway or item.spec
    if spec is None:
        return UNREGISTERED
    return Publisher(spec.tenant.schema, spec.number, spec.device_id)


def _topic_size(text: str, topic: Topic) -> int:
    # The object with its UUID, the UUID's text, and four bytes for each letter of segment and component.
    return 360 + 2 * len(text) + 4 * len(topic.segment) + 4 * len(topic.component)


def _parse_topic(incoming: Incoming) -> Topic | Refusal:
    try:
        return form.parse_topic(incoming.topic)
    except Refusal as refusal:
        return refusal.detached()


def _refused(
    incoming: Incoming, topic: Topic, spec: DeviceSpec | None, refusal: Refusal, gateway: DeviceSpec | None = None
) -> RefusedItem:
    """Return the refused message, for staff where the topic names another tenant than the device's.

    Its payload may be that tenant's: only a signature, which is verified before `wrong_tenant`, proves that it is not.
    """
    is_unverified = spec is not None and bool(topic.segment) and refusal.reason != "wrong_tenant"
    for_staff = is_unverified and spec is not None and names_other_tenant(topic.segment, spec)
    return RefusedItem(incoming, spec, refusal, for_staff, gateway)


def _malformed(incoming: Incoming, refusal: Refusal, route: Route | None) -> RefusedItem | LockedMessage:
    """Return a message on a malformed topic as one of the device that published it, where that one is registered.

    It is not verified, so it keeps no payload if the topic names another tenant.
    """
    if route is None:
        return RefusedItem(incoming, None, refusal)
    if route.spec is None:
        is_locked = bool(route.locked_schema)
        return LockedMessage(incoming, route.locked_schema) if is_locked else RefusedItem(incoming, None, refusal)
    segment = form.segment_of(incoming.topic)
    if segment and names_other_tenant(segment, route.spec):
        incoming = replace(incoming, payload=b"")
        refusal = Refusal(refusal.reason, f"{refusal.detail} {_NO_PAYLOAD}")
    return RefusedItem(incoming, route.spec, refusal)


def _limited(accepted: Sequence[AcceptedItem], exceeded: dict[int, ExceededLimit]) -> Iterator[MessageResult]:
    for position, item in enumerate(accepted):
        limit = exceeded.get(position)
        if limit is None:
            yield item
        elif limit.kind == "quota":
            refusal = limit.refusal()
            refusal.contact = VerifiedContact(item.result.time)
            yield RefusedItem(item.incoming, item.spec, refusal)
        else:
            yield LimitedItem(
                item.incoming, item.spec, item.result, limit.limit, limit.device_id, retry_after=limit.retry_after
            )
