"""Messages that were parked because no key could be had: judged again when Vault can be asked.

They go through the same stages as when they came, at the time at which they came, so that a replay is no sign
of life. Stored or refused for another reason, the parked row goes, and the totals of its day say so.
"""

import logging
from collections.abc import Iterator

from django.db import transaction
from django.db.models import F
from django_tenants.utils import schema_context

from tenants.models import Tenant

from ..models import IngestTotals, Quarantined, Reason
from .ingest import Ingest
from .storage import Incoming

logger = logging.getLogger(__name__)

_BATCH = 200


def find_parked() -> set[str]:
    """The schemas of active tenants that have parked messages: for a process that has just started."""
    with schema_context("public"):
        schemas = list(Tenant.objects.filter(state=Tenant.State.ACTIVE).values_list("schema_name", flat=True))
    return {schema for schema in schemas if _has_parked(schema)}


def replay(ingest: Ingest) -> int:
    """Judge what is parked in the tenants that `ingest` knows of. Returns how many messages were settled.

    Ends early when Vault is away again.
    """
    settled = 0
    for schema in list(ingest.parked):
        ingest.parked.discard(schema)
        for rows in _batches(schema):
            settled += _settle(ingest, schema, rows)
            if schema in ingest.parked:  # parked again: no use in going on
                return settled
    return settled


def _has_parked(schema: str) -> bool:
    with schema_context(schema):
        return Quarantined.objects.filter(reason=Reason.KEY_UNAVAILABLE).exists()


def _batches(schema: str) -> Iterator[list[Quarantined]]:
    """The parked rows, oldest first, each once; the tenant's context is not held between batches."""
    after = 0
    while True:
        with schema_context(schema):
            parked = Quarantined.objects.filter(reason=Reason.KEY_UNAVAILABLE, pk__gt=after).order_by("pk")
            rows = list(parked[:_BATCH])
        if not rows:
            return
        after = rows[-1].pk
        yield rows


def _settle(ingest: Ingest, schema: str, rows: list[Quarantined]) -> int:
    incoming = [Incoming(row.topic, bytes(row.payload), row.first_received_at) for row in rows]
    tally = ingest.process(incoming, live=False)
    if schema in ingest.parked or len(tally.settled) < len(incoming):
        return 0
    with schema_context(schema), transaction.atomic():
        for row in rows:
            # What was counted as quarantined has now been received and counted anew.
            IngestTotals.objects.filter(day=row.first_received_at.date()).update(
                received=F("received") - row.times,
                quarantined=F("quarantined") - row.times,
                replayed=F("replayed") + row.times,
            )
        Quarantined.objects.filter(pk__in=[row.pk for row in rows]).delete()
    logger.info("%d parked messages of %s were judged again", len(rows), schema)
    return len(rows)
