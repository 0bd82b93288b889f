"""Messages deferred because no key was available: replayed automatically when Vault answers again.

A tenant whose tables are locked or faulty is left for the next run; the others are not affected.
"""

import logging

import django.db
from django_tenants.utils import schema_context

from telemetry.models import Quarantined, Reason
from tenants.infrastructure.retry import first_line
from tenants.infrastructure.sql_errors import DATABASE_ERRORS, is_of_tenant
from tenants.services.active_tenants import active_schemas

from .batch_pipeline import BatchPipeline
from .reprocessing import pages, replay_page

logger = logging.getLogger(__name__)

_DEFERRED = Reason.KEY_UNAVAILABLE


def find_deferred() -> set[str]:
    """Return the schemas of active tenants that have deferred messages, or whose tables cannot be read now; for a
    process that has just started.
    """
    return {schema for schema in active_schemas() if _has_deferred(schema)}


def replay_deferred(pipeline: BatchPipeline) -> int:
    """Replay the deferred messages of the tenants that the pipeline knows of; return how many messages were settled.

    Ends early when a key is unavailable again.
    """
    settled = 0
    for schema in list(pipeline.deferred_schemas):
        pipeline.deferred_schemas.discard(schema)
        try:
            for page in pages(schema, Quarantined.objects.filter(reason=_DEFERRED)):
                result = replay_page(pipeline, schema, page)
                left = result.waiting + result.refused.get(_DEFERRED, 0) + len(result.unstorable)
                settled += len(page) - left
                if left:
                    pipeline.deferred_schemas.add(schema)
                    if not result.waiting:
                        return settled
                    break
                logger.info("%d deferred messages of %s were replayed", len(page), schema)
        except DATABASE_ERRORS as error:
            if not is_of_tenant(error):
                raise
            logger.warning("The deferred messages of %s are replayed later: %s", schema, first_line(error))
            pipeline.deferred_schemas.add(schema)
    return settled


def _has_deferred(schema: str) -> bool:
    try:
        with schema_context(schema):
            return Quarantined.objects.filter(reason=_DEFERRED).exists()
    except django.db.Error as error:
        if not is_of_tenant(error):
            raise
        logger.warning("The deferred messages of %s cannot be read: %s", schema, first_line(error))
        return True
