"""Messages that were read, into their tenants' queues, except those of braked publishers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from telemetry.services.limits.refusals import NOBODY, Publisher, RefusalLimiter
from telemetry.services.lookups.routing import Route, Router
from telemetry.services.pipeline import form
from telemetry.services.pipeline.results import Incoming, LimitedItem

from .broker_events import INTERNAL_PREFIX
from .tenant_queues import TenantQueues


@dataclass(slots=True)
class BrakedMessages:
    """The messages of braked publishers: `limited` of registered devices, and `unrouted` of all others."""

    limited: list[LimitedItem] = field(default_factory=list)
    unrouted: list[Incoming] = field(default_factory=list)


class Admission:
    """Sorts messages by their topic's device alone: nothing of them is parsed. Not shared between threads."""

    def __init__(self, router: Router, refusals: RefusalLimiter) -> None:
        self._router = router
        self._refusals = refusals

    def sort(self, messages: Sequence[Incoming], queues: TenantQueues) -> BrakedMessages:
        """Append the messages to their tenants' queues, in their order, and return those of braked publishers.

        Unknown devices are looked up together. Raises the error of a lost database; nothing is appended then.
        """
        uuids = [form.publisher_of(message.topic) for message in messages]
        routes = iter(self._router.routes([uuid for uuid in uuids if uuid is not None]))
        braked = BrakedMessages()
        for message, uuid in zip(messages, uuids, strict=True):
            self._sort_one(message, None if uuid is None else next(routes), queues, braked)
        return braked

    def _sort_one(self, message: Incoming, route: Route | None, queues: TenantQueues, braked: BrakedMessages) -> None:
        if route is None and message.topic.startswith(INTERNAL_PREFIX):
            queues.add(INTERNAL_PREFIX, 0, message)
            return
        publisher = publisher_of(route)
        if self._refusals.is_braking and (exceeded := self._refusals.exceeded(publisher)) is not None:
            if route is None or route.spec is None:
                braked.unrouted.append(message)
            else:
                braked.limited.append(LimitedItem(message, route.spec, None, exceeded.limit, exceeded.device_id))
        else:
            queues.add(publisher.schema, publisher.number, message)


def publisher_of(route: Route | None) -> Publisher:
    """Return the publisher at the end of a route; `NOBODY` where the device is not registered."""
    if route is None:
        return NOBODY
    if route.spec is None:
        return Publisher(route.locked_schema, 0, None) if route.locked_schema else NOBODY
    return Publisher(route.spec.tenant.schema, route.spec.number, route.spec.device_id)
