"""Messages that were parked because no key could be had: replayed by themselves when Vault can be asked."""

import logging
from collections.abc import Iterator

from django_tenants.utils import schema_context

from telemetry.models import Quarantined, Reason
from tenants.services.active_tenants import active_schemas

from .batch_pipeline import Ingest
from .reprocessing import Kept, kept_of, replay_batch

logger = logging.getLogger(__name__)

_BATCH = 200
_PARKED = Reason.KEY_UNAVAILABLE


def find_parked() -> set[str]:
    """The schemas of active tenants that have parked messages: for a process that has just started."""
    return {schema for schema in active_schemas() if _has_parked(schema)}


def replay(ingest: Ingest) -> int:
    """Judge what is parked in the tenants that `ingest` knows of. Returns how many messages were settled.

    Ends early when Vault is away again.
    """
    settled = 0
    for schema in list(ingest.parked):
        ingest.parked.discard(schema)
        for batch in _batches(schema):
            result = replay_batch(ingest, schema, batch)
            still = result.waiting + result.refused.get(_PARKED, 0)
            settled += len(batch) - still
            if still:  # no use in going on
                ingest.parked.add(schema)
                return settled
            logger.info("%d parked messages of %s were judged again", len(batch), schema)
    return settled


def _has_parked(schema: str) -> bool:
    with schema_context(schema):
        return Quarantined.objects.filter(reason=_PARKED).exists()


def _batches(schema: str) -> Iterator[list[Kept]]:
    """The parked rows, oldest first, each once; the tenant's context is not held between batches."""
    after = 0
    while True:
        with schema_context(schema):
            parked = Quarantined.objects.filter(reason=_PARKED, pk__gt=after).order_by("pk")
            rows = kept_of(parked.values_list("pk", "reason", "topic", "payload", "first_received_at")[:_BATCH])
        if not rows:
            return
        after = rows[-1].pk
        yield rows
