"""Messages that were read, into their tenants' queues, except those of braked publishers, which are only counted."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from devices.domain.specs import DeviceSpec
from telemetry.services.limits.refusals import UNREGISTERED, ExceededRate, Publisher, RefusalLimiter
from telemetry.services.lookups.routing import Route, Router
from telemetry.services.pipeline import form
from telemetry.services.pipeline.results import Incoming, Topic
from tenants.infrastructure.byte_bounded_cache import ByteBoundedCache

from .braked_counts import BrakedCounts
from .broker_events import INTERNAL_PREFIX
from .tenant_queues import TenantQueues

# Counts are stored this often, or when so many messages wait for it: a commit for each read would be slower than
# reading, and the broker sends only a window of messages ahead of their acknowledgements.
_STORE_SECONDS = 0.1
_STORE_MESSAGES = 250


class Admission:
    """Sorts messages by their topic's device alone: nothing else of them is parsed. Not shared between threads."""

    def __init__(self, router: Router, refusals: RefusalLimiter, topics: ByteBoundedCache[str, Topic]) -> None:
        """`topics` are those of accepted messages."""
        self._router = router
        self._topics = topics
        self._refusals = refusals
        self._counts = BrakedCounts()
        self._store_at = 0.0

    def sort(self, messages: Sequence[Incoming], queues: TenantQueues) -> int:
        """Append the messages to their tenants' queues, in their order, and return the number of those of braked
        publishers, which are counted instead.

        Unknown devices are looked up together. Raises the error of a lost database; nothing is appended or counted
        then.
        """
        known = [] if self._refusals.is_braking else self._known_specs(messages)
        others = messages[len(known) :]
        texts = [form.publisher_text(message.topic) for message in others]
        routes = self._routes_of(set(texts))
        for message, device in zip(messages, known, strict=False):
            queues.add(device.tenant.schema, device.number, message)
        braked: list[Incoming] = []
        counts: Counter[str] = Counter()
        exceeded: dict[str, ExceededRate] = {}
        is_braking = self._refusals.is_braking
        for message, text in zip(others, texts, strict=True):
            # A publisher over its rate stays so until the next call: its messages cost little more than reading them.
            if not text and message.topic.startswith(INTERNAL_PREFIX):
                queues.add(INTERNAL_PREFIX, 0, message)
                continue
            if text not in exceeded:
                route = routes.get(text)
                if not is_braking and route is not None and (spec := route.spec) is not None:
                    queues.add(spec.tenant.schema, spec.number, message)
                    continue
                publisher = publisher_of(route)
                limit = self._refusals.exceeded(publisher) if is_braking else None
                if limit is None:
                    queues.add(publisher.schema, publisher.number, message)
                    continue
                exceeded[text] = limit
            counts[text] += 1
            braked.append(message)
        for text, count in counts.items():
            route = routes.get(text)
            self._counts.count(None if route is None else route.spec, exceeded[text], count)
        if braked:
            self._counts.add_ids(braked)
        return len(braked)

    def _known_specs(self, messages: Sequence[Incoming]) -> list[DeviceSpec]:
        """Return the devices of the first messages, up to one whose topic is not that of an accepted message.

        Most messages of a burst are such: neither their topic nor their device needs to be looked at.
        """
        topic_of, route_of, specs = self._topics.get, self._router.known, []
        for message in messages:
            topic = topic_of(message.topic)
            route = None if topic is None else route_of(topic.uuid.int)
            if route is None or (spec := route.spec) is None:
                break
            specs.append(spec)
        return specs

    @property
    def counted(self) -> int:
        """The number of messages whose counts are to be stored before they are acknowledged."""
        return self._counts.messages

    @property
    def is_store_due(self) -> bool:
        """Whether counts wait to be stored, and should no longer."""
        counted = self._counts.messages
        return counted > 0 and (counted >= _STORE_MESSAGES or time.monotonic() >= self._store_at)

    def store_soon(self) -> None:
        """Have the counts stored with the next batch."""
        self._store_at = 0.0

    def take_counts(self) -> BrakedCounts:
        """Remove and return the counts, to be stored. They come back by `put_back` where they could not be."""
        self._store_at = time.monotonic() + _STORE_SECONDS
        counts, self._counts = self._counts, BrakedCounts(self._counts.generation)
        return counts

    def put_back(self, counts: BrakedCounts) -> None:
        """Add counts that could not be stored, except those from before `drop`."""
        if counts.generation == self._counts.generation:
            self._counts.add(counts)

    def drop(self) -> None:
        """Drop the counts that are not stored: the broker sends their messages again."""
        self._counts = BrakedCounts(self._counts.generation + 1)

    def _routes_of(self, texts: Iterable[str]) -> dict[str, Route]:
        uuids = {text: uuid for text in texts if (uuid := form.canonical_uuid(text)) is not None}
        return dict(zip(uuids, self._router.routes(list(uuids.values())), strict=True))


def publisher_of(route: Route | None) -> Publisher:
    """Return the publisher at the end of a route; `UNREGISTERED` where the device is not registered."""
    if route is None:
        return UNREGISTERED
    if route.spec is None:
        return Publisher(route.locked_schema, 0, None) if route.locked_schema else UNREGISTERED
    return Publisher(route.spec.tenant.schema, route.spec.number, route.spec.device_id)
