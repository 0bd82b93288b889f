"""The periodic tasks of the workers: each queues a task for every tenant that has work to do.

One query finds the work of many tenants, so idle tenants cost no task.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import django.db
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context
from redis.exceptions import RedisError

from telemetry.models.quarantine import DEFERRED
from tenants.infrastructure.chunks import chunks
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.retry import first_line
from tenants.infrastructure.sql_errors import DATABASE_ERRORS, ErrorKind, kind_of
from tenants.infrastructure.tasks import enqueue
from tenants.infrastructure.tenant_failures import clear_failures, record_failures
from tenants.models import Tenant
from tenants.services.tenant_rounds import SHOWN_SECONDS, bounded_lock_waits, note_round

from .latest import values
from .quarantine import replays
from .retention import quarantine, telemetry
from .rollups import aggregation, packing
from .storage import bookkeeping
from .work_lock import WorkLockBusy

logger = logging.getLogger(__name__)

_STATES = (Tenant.State.ACTIVE, Tenant.State.SUSPENDED)
_TENANTS_PER_QUERY = 100
_MODULE = "telemetry.services.periodic_tasks"
# A replay without a worker for so long has lost its task.
_IDLE_SECONDS = 10


def roll_up() -> int:
    """Queue rollups for tenants with an hour to roll up or with late hours; return the number of tasks."""
    until = aggregation.hour_of(datetime.now(UTC) - aggregation.SETTLED_AFTER)
    return _queue(
        "roll_up_tenant",
        "coalesce((SELECT rolled_until < %s FROM {schema}.telemetry_rollupstate), true)"
        " OR EXISTS (SELECT 1 FROM {schema}.telemetry_latehour)",
        [until],
    )


def refill_latest() -> int:
    """Queue a refill for tenants whose newest values are incomplete in Redis; return the number of tasks."""
    try:
        values.expire_stopped_listeners()
        incomplete = values.incomplete_tenants(_schemas())
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): the next run tries again", error)
        return 0
    return _enqueue("refill_latest_tenant", incomplete)


def persist_latest() -> int:
    """Queue the write of changed newest values, and remove dropped tenants from Redis; return the number of tasks."""
    try:
        values.forget_others(Tenant.objects.values_list("schema_name", flat=True))
        redis = get_redis_connection("default")
        changed = [s for s in _schemas() if redis.exists(values.changed_key(s), values.moving_key(s))]
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): the next run tries again", error)
        return 0
    return _enqueue("persist_latest_tenant", changed)


def pack_readings() -> int:
    """Queue packing for tenants with days to pack; return the number of tasks."""
    until = packing.due_before(datetime.now(UTC))
    return _queue(
        "pack_readings_tenant",
        "EXISTS (SELECT 1 FROM {schema}.telemetry_repackday) OR (SELECT coalesce(packed_until, '-infinity')"
        " < least(%s, date_trunc('day', rolled_until, 'UTC')) FROM {schema}.telemetry_rollupstate)",
        [until],
    )


def apply_retention() -> int:
    """Queue retention for all tenants; return the number of tasks."""
    return _enqueue("apply_retention_tenant", _schemas())


def merge_limit_counts() -> int:
    """Queue the merge of old limit counts of devices for tenants that have any; return the number of tasks."""
    return _queue(
        "merge_limit_counts_tenant",
        "EXISTS (SELECT 1 FROM {schema}.telemetry_limithit WHERE day < %s AND device_id IS NOT NULL)",
        [bookkeeping.limit_counts_due_before()],
    )


def apply_quarantine_retention() -> int:
    """Queue quarantine retention for tenants over age or size, and apply it to unrouted messages; return the count."""
    quarantine.apply_unrouted_retention()
    limits = quarantine.quarantine_limits(datetime.now(UTC))
    return _queue(
        "apply_quarantine_retention_tenant",
        "EXISTS (SELECT 1 FROM {schema}.telemetry_quarantined WHERE last_received_at < %s"
        " AND reason <> ALL(%s)) OR EXISTS (SELECT 1 FROM {schema}.telemetry_quarantineflood WHERE day < %s)"
        " OR pg_total_relation_size('{schema}.telemetry_quarantined') > %s",
        [limits.before, sorted(DEFERRED), limits.before, limits.size],
    )


def resume_replays() -> int:
    """Queue a task for each tenant that has replays without a worker; return how many."""
    return _queue(
        "resume_replays_tenant",
        "EXISTS (SELECT 1 FROM {schema}.telemetry_replay WHERE state IN ('waiting', 'running')"
        " AND claimed_until < now() - make_interval(secs => %s))",
        [_IDLE_SECONDS],
    )


# --- a tenant's task, in its schema -------------------------------------------------------------------------------


def roll_up_tenant() -> Any:
    """Roll up the current tenant's readings."""
    return _run_or_skip("roll_up", aggregation.roll_up)


def refill_latest_tenant() -> Any:
    """Refill the current tenant's newest values in Redis."""
    return _run_or_skip("refill_latest", values.refill)


def persist_latest_tenant() -> Any:
    """Write the current tenant's newest values from Redis to the table."""
    return _run_or_skip("persist_latest", values.persist)


def pack_readings_tenant() -> Any:
    """Pack due days of the current tenant."""
    return _run_or_skip("pack_readings", packing.pack)


def apply_retention_tenant() -> Any:
    """Apply the current tenant's retention."""
    return _run_or_skip("apply_retention", telemetry.apply_retention)


def merge_limit_counts_tenant() -> Any:
    """Merge the current tenant's old limit counts of devices."""
    return _run_or_skip("merge_limit_counts", bookkeeping.merge_limit_counts)


def apply_quarantine_retention_tenant() -> Any:
    """Apply retention to the current tenant's quarantine."""
    return _run_or_skip("apply_quarantine_retention", quarantine.apply_retention)


def resume_replays_tenant() -> Any:
    """Queue the replays of the current tenant that have no worker."""
    return _run_or_skip("resume_replays", replays.resume)


def _run_or_skip(name: str, work: Callable[[], Any]) -> Any:
    """Do the work of the current tenant; a failure is recorded under the name, and raised for the list of tasks."""
    schema = current_schema()
    try:
        result = work()
    except DATABASE_ERRORS as error:
        if kind_of(error) is not ErrorKind.SERVER:
            record_failures(name, {schema: error}, SHOWN_SECONDS)
        raise
    except WorkLockBusy as error:
        logger.info("The work lock is taken (%s): the next run tries again", error)
        return "busy"
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): the next run tries again", error)
        return "Redis is unavailable"
    clear_failures(name, [schema])
    return result


def _schemas() -> list[str]:
    return list(Tenant.objects.filter(state__in=_STATES).order_by("pk").values_list("schema_name", flat=True))


def _queue(task: str, condition: str, parameters: Sequence[Any]) -> int:
    """Queue the task for the tenants whose schema meets the condition."""
    failures: dict[str, str] = {}
    with bounded_lock_waits():
        queries = (_due(chunk, condition, parameters, failures) for chunk in chunks(_schemas(), _TENANTS_PER_QUERY))
        due = [schema for schemas in queries for schema in schemas]
    # A task that succeeds removes the failures of its own tenant.
    note_round(task.removesuffix("_tenant"), (), failures)
    return _enqueue(task, due)


def _due(schemas: list[str], condition: str, parameters: Sequence[Any], failures: dict[str, str]) -> list[str]:
    """Return the schemas that meet the condition: of all in one query or, where that fails, of each by itself."""
    try:
        return _where(schemas, condition, parameters)
    except django.db.Error as error:
        if kind_of(error) is ErrorKind.SERVER:
            raise
        if len(schemas) == 1:
            failures[schemas[0]] = first_line(error)
            return []
    return [due for schema in schemas for due in _due([schema], condition, parameters, failures)]


def _where(schemas: list[str], condition: str, parameters: Sequence[Any]) -> list[str]:
    selects = [
        f"SELECT {number} WHERE {condition.format(schema=connection.ops.quote_name(schema))}"
        for number, schema in enumerate(schemas)
    ]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(selects), [*parameters] * len(schemas))
        return [schemas[number] for (number,) in cursor.fetchall()]


def _enqueue(task: str, schemas: Sequence[str]) -> int:
    for schema in schemas:
        with schema_context(schema):
            enqueue(f"{_MODULE}.{task}")
    return len(schemas)
