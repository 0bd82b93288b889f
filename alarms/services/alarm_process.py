"""The process that evaluates alarms: a loop over the tenants with rules, one page of one tenant at a time."""

import logging
import time

import django.db
from django.db import connection
from django_tenants.utils import schema_context

from tenants.infrastructure import metrics
from tenants.infrastructure.retry import DATABASE_LOST, Backoff, first_line
from tenants.infrastructure.sql_errors import ErrorKind, kind_of
from tenants.infrastructure.tenant_failures import record_failures
from tenants.services.active_tenants import active_schemas

from .tenant_evaluation import RuleCache, StepOutcome, evaluate_step

logger = logging.getLogger(__name__)

_METRICS_SECONDS = 1.0


class AlarmProcess:
    """Evaluates all tenants; the command loops over `run_once`. Several share the tenants by their locks."""

    def __init__(self, *, interval: float = 0.2, look_seconds: float = 5.0) -> None:
        self._interval, self._look_seconds = interval, look_seconds
        self._caches: dict[str, RuleCache] = {}
        self._look_at = 0.0
        self._metrics_at = 0.0
        self._open = 0
        self._longest_lag = 0.0
        self._transitions = 0
        self._retry = Backoff()

    def run_once(self) -> int:
        """Evaluate a page of each tenant; return the number of readings. Without any, wait for the interval.

        A lost database is tried again later, with growing pauses.
        """
        if self._retry.is_pausing:
            time.sleep(min(self._interval, self._retry.remaining))
            return 0
        try:
            self._find_tenants()
            outcomes = [self._evaluate(schema) for schema in self._caches]
        except DATABASE_LOST as error:
            connection.close()
            pause = self._retry.fail()
            logger.warning("PostgreSQL is unavailable (%s); next attempt in %.1f s", first_line(error), pause)
            return 0
        self._retry.reset()
        self._record_metrics(outcomes)
        if not any(one.has_more for one in outcomes):
            time.sleep(self._interval)
        return sum(one.readings for one in outcomes)

    def close(self) -> None:
        """Disconnect. No transaction is in progress between two steps."""
        connection.close()

    def _find_tenants(self) -> None:
        """Find the active tenants that have or had rules, from time to time."""
        if time.monotonic() < self._look_at:
            return
        found = [schema for schema in active_schemas() if _has_rules(schema)]
        self._caches = {schema: self._caches.get(schema) or RuleCache() for schema in found}
        self._open = sum(_open_alarms(schema) for schema in found)
        self._look_at = time.monotonic() + self._look_seconds

    def _evaluate(self, schema: str) -> StepOutcome:
        try:
            with schema_context(schema):
                return evaluate_step(self._caches[schema], time.monotonic())
        except DATABASE_LOST as error:
            if kind_of(error) is ErrorKind.SERVER:
                raise
            logger.warning("%s: its alarms wait: %s", schema, first_line(error))
            self._note_failure(schema, error)
        except Exception as error:  # an error of one tenant must not stop the others; the next turn tries again
            logger.exception("%s: cannot evaluate its alarms", schema)
            self._note_failure(schema, error)
        return StepOutcome()

    def _note_failure(self, schema: str, error: Exception) -> None:
        record_failures("alarms", {schema: error}, 2 * self._look_seconds)

    def _record_metrics(self, outcomes: list[StepOutcome]) -> None:
        self._longest_lag = max([self._longest_lag, *(lag for one in outcomes for lag in one.lags)])
        self._transitions += sum(one.transitions for one in outcomes)
        if time.monotonic() >= self._metrics_at:
            gauges = {
                "alarm_lag_seconds": self._longest_lag,
                "alarm_last_pass_timestamp_seconds": time.time(),
                "alarm_episodes": self._open,
            }
            metrics.record(gauges, {"alarm_transitions_total": self._transitions} if self._transitions else {})
            self._longest_lag, self._transitions = 0.0, 0
            self._metrics_at = time.monotonic() + _METRICS_SECONDS


def _open_alarms(schema: str) -> int:
    """Return the number of open alarms in the schema, from a partial index."""
    quoted = connection.ops.quote_name(schema)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM {quoted}.alarms_alarmepisode"  # noqa: S608 (quoted)
            " WHERE ended_at IS NULL AND retracted_at IS NULL"
        )
        return int(cursor.fetchone()[0])


def _has_rules(schema: str) -> bool:
    """Return whether the schema has a progress of alarms, without a change of the search path."""
    quoted = connection.ops.quote_name(schema)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {quoted}.alarms_alarmprogress)")  # noqa: S608 (quoted)
            return bool(cursor.fetchone()[0])
    except django.db.ProgrammingError as error:  # the tenant is not migrated yet
        logger.warning("%s: its alarms wait: %s", schema, first_line(error))
        return False
