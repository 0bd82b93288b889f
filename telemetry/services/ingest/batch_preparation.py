"""A batch judged and sorted by tenant: all that can be done for it while another one is being stored."""

from collections.abc import Callable, Iterable, Sequence

from telemetry.services.lookups.routing import Router
from telemetry.services.pipeline import form
from telemetry.services.pipeline.results import Incoming, Judged

from . import broker_events
from .batches import Batch
from .validation import Busy, Judge


class Sorter:
    """Stages 1 to 5 for a batch. Stores nothing. Not shared between threads."""

    def __init__(self, router: Router, judge: Judge, on_parked: Callable[[str], None]) -> None:
        """`on_parked` hears of the tenants of messages that want for a key."""
        self._router = router
        self._judge = judge
        self._on_parked = on_parked

    def sort(self, messages: Sequence[Incoming], risen: Iterable[int] = (), *, replayed: bool = False) -> Batch:
        """The messages by tenant, within the limits. `risen`: as in `Judge.judge`, of the batch on its way."""
        batch = Batch(risen=set(risen), replayed=replayed)
        batch.told = [incoming for incoming in messages if broker_events.is_hint(incoming)]
        if batch.told:
            broker_events.take(batch.told, self._router.resolve)
            messages = [incoming for incoming in messages if not broker_events.is_hint(incoming)]
        groups: dict[str, list[Judged]] = {}
        for item in self._judge.judge(messages, self._on_parked, batch.risen):
            schema = item.schema if isinstance(item, Busy) else self.schema_of(item)
            if schema is None:
                batch.unrouted.append(item)  # type: ignore[arg-type]  # what is accepted has a tenant
            elif isinstance(item, Busy) or schema in batch.busy:
                batch.busy.setdefault(schema, []).append(item.incoming)
            else:
                groups.setdefault(schema, []).append(item)
        batch.groups = {schema: self._judge.limit(items, replayed=replayed) for schema, items in groups.items()}
        return batch

    def again(self, messages: Sequence[Incoming]) -> list[Judged | Busy]:
        """What messages are now that came before, in their order."""
        return self._judge.judge(messages, self._on_parked, set())

    def schema_of(self, item: Judged) -> str | None:
        """Whose the message is: its device's tenant's, or the one that its topic names; None: nobody's."""
        if item.spec is not None:
            return item.spec.tenant.schema
        tenant = self._router.tenant_named(form.segment_of(item.incoming.topic))
        return tenant.schema if tenant else None
