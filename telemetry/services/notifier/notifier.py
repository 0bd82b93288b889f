"""The notifier, which publishes state changes from the outboxes and states that apps request.

One loop, no second thread. A lost NOTIFY is found by a periodic search of every tenant's outbox.
"""

import logging
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any
from uuid import UUID

import django.db
import psycopg
from django.db import connection
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from devices.services.broker.errors import BrokerUnavailable
from devices.services.broker.retained_states import STATE_TOPIC
from devices.services.notifications import outbox
from devices.services.notifications.outbox import NotifierBusy, Publish, StateUpdate
from devices.services.notifications.state_publisher import StateBroker
from devices.services.presence.state_store import CHANNEL
from telemetry.services.limits import backoff_notices
from tenants.infrastructure import metrics
from tenants.infrastructure.database import conninfo
from tenants.infrastructure.retry import DATABASE_LOST, Backoff, first_line
from tenants.infrastructure.sql_errors import ErrorKind, kind_of
from tenants.infrastructure.tenant_failures import record_failures
from tenants.models import DeviceRoute, Tenant

from .backoff_commands import BackoffCommands
from .state_messages import state_payloads

logger = logging.getLogger(__name__)

_BUSY_SECONDS = 0.3
_REQUESTS_AT_ONCE = 100
_ANSWER_AGAIN_SECONDS = 1.0
_IDLE_SECONDS = 0.1
_BACKOFF_INTERVAL_SECONDS = 0.5
_NOTICES_AT_ONCE = 200
# A notice is dropped when its device stays unavailable for longer.
_BACKOFF_LIFETIME_SECONDS = 60
# The connection is silent for long: that it is dead must show by itself.
_LISTEN_OPTIONS: dict[str, Any] = {
    "application_name": "gwanje-notifier",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class NotifierTask(IntEnum):
    """Tasks for a tenant, in order of priority."""

    CHANGES = 1  # changes are in the outbox
    SETTLING = 2  # devices were suppressed and may be published again
    REQUESTED = 3  # states must be published now


class Notifier:
    """The worker that publishes states; the command loops over `run_once`. Each notifier needs its own client id."""

    def __init__(self, *, client_id: str = "", look_seconds: float = 30.0) -> None:
        self._broker = StateBroker(client_id)
        self._backoff = BackoffCommands()
        self._backoff_at = 0.0
        self._look_seconds = look_seconds
        self._notifications: psycopg.Connection | None = None
        self._slugs: dict[str, str] = {}
        # The earliest time of each pending task.
        self._due_tasks: dict[tuple[NotifierTask, str], float] = {}
        # By schema: devices whose states apps requested, and those published without an acknowledgement or a commit.
        # Such a message may yet reach the broker, after a newer state from another notifier.
        self._requested_states: dict[str, set[UUID]] = {}
        self._answered: dict[UUID, float] = {}
        self._look_at = 0.0
        self._retry = Backoff()

    def run_once(self, timeout: float = 1.0) -> int:
        """Wait for work up to `timeout` seconds and do it; return the number of changes taken from outboxes.

        A lost broker or database is tried again later, with growing pauses; the changes wait in the outbox.
        """
        listening = [self._notifications] if self._notifications is not None and not self._retry.is_pausing else []
        self._broker.exchange(self._pause(timeout), also=listening)
        if self._retry.is_pausing:
            return 0
        try:
            self._read_notifications()
            done = self._work() if self._broker.is_connected else 0
        except DATABASE_LOST as error:
            self._close_database()
            self._hold("PostgreSQL is unavailable", error)
            return 0
        except BrokerUnavailable as error:
            self._hold("States are not published", error)
            return 0
        self._retry.reset()
        return done

    def close(self) -> None:
        """Disconnect. No work is in progress between two steps."""
        self._broker.close()
        self._backoff.close()
        self._close_database()

    # --- tasks -----------------------------------------------------------------------------------------------

    def _pause(self, timeout: float) -> float:
        """Return the seconds to wait for work; 0 when a task is due."""
        if not self._broker.is_connected or self._notifications is None:
            return min(timeout, _IDLE_SECONDS)
        due = min([self._look_at, *self._due_tasks.values()])
        if self._broker.has_requests:  # of a tenant that waits for its rate
            timeout = min(timeout, _IDLE_SECONDS)
        return min(timeout, max(self._retry.remaining, due - time.monotonic()))

    def _read_notifications(self) -> None:
        if self._notifications is None:
            self._notifications = psycopg.connect(conninfo(**_LISTEN_OPTIONS), autocommit=True)
            self._notifications.execute(f"LISTEN {CHANNEL}")
            self._look_at = 0.0
        for notification in self._notifications.notifies(timeout=0):
            self._due_tasks.setdefault((NotifierTask.CHANGES, notification.payload), 0.0)
        if time.monotonic() >= self._look_at:
            self._find_pending()
            self._look_at = time.monotonic() + self._look_seconds

    def _find_pending(self) -> None:
        """Find the tenants with changes in the outbox or devices to settle: a notification may have been lost."""
        self._slugs = _active_tenants()
        for schema in self._slugs:
            try:
                found = _pending_tasks(schema)
            except django.db.Error as error:
                self._note_failure(schema, error)
                continue
            for work in found:
                self._due_tasks.setdefault((work, schema), 0.0)

    def _work(self) -> int:
        self._note_requests()
        now = time.monotonic()
        done = sum(self._step(*key) for key, at in sorted(self._due_tasks.items()) if at <= now)
        self._publish_backoff_notices()
        return done

    def _step(self, work: NotifierTask, schema: str) -> int:
        """Do one batch of a tenant's task, and keep the task while more may remain. Return the number of changes."""
        act: dict[NotifierTask, Callable[[str, Publish], int]] = {
            NotifierTask.CHANGES: outbox.publish_changes,
            NotifierTask.SETTLING: outbox.publish_pending,
            NotifierTask.REQUESTED: self._publish_requested,
        }
        published: set[UUID] = set()
        try:
            done = act[work](schema, self._publisher(schema, published)) if self._is_active(schema) else 0
            self._requested_states.get(schema, set()).difference_update(published)
        except NotifierBusy:
            self._due_tasks[work, schema] = time.monotonic() + _BUSY_SECONDS
            return 0
        except (*DATABASE_LOST, BrokerUnavailable) as error:
            self._request_states(schema, published)
            if isinstance(error, BrokerUnavailable):
                raise
            self._note_failure(schema, error)
            self._due_tasks[work, schema] = time.monotonic() + _BUSY_SECONDS
            return 0
        except Exception as error:  # an error of one tenant must not stop the others; the next search tries again
            logger.exception("%s: cannot do its %s", schema, work.name)
            record_failures("notifications", {schema: error}, 2 * self._look_seconds)
            done = 0
        if done < outbox.BATCH:
            del self._due_tasks[work, schema]
        return done if work is NotifierTask.CHANGES else 0

    def _note_failure(self, schema: str, error: Exception) -> None:
        """Record an error of one tenant: its changes wait in its outbox. Raises the error of a lost database."""
        if kind_of(error) is ErrorKind.SERVER:
            raise error
        logger.warning("%s: its changes wait: %s", schema, first_line(error))
        record_failures("notifications", {schema: error}, 2 * self._look_seconds)

    def _is_active(self, schema: str) -> bool:
        """Return whether the tenant is active; the outbox of a suspended one is processed when it is resumed."""
        if schema not in self._slugs:
            self._slugs = _active_tenants()
        return schema in self._slugs

    # --- publishing -------------------------------------------------------------------------------------------

    def _publisher(self, schema: str, published: set[UUID]) -> Publish:
        """Publishes the tenant's states, and notes in `published` which devices' they are, acknowledged or not."""

        def publish(states: Sequence[StateUpdate]) -> None:
            topics = [STATE_TOPIC.format(slug=self._slugs[schema], uuid=state.uuid) for state in states]
            messages = list(zip(topics, state_payloads(states), strict=True))
            published.update(state.uuid for state in states)
            self._broker.publish(messages)

        return publish

    def _request_states(self, schema: str, uuids: set[UUID]) -> None:
        """Queue the current states of these devices for publishing."""
        if uuids:
            self._requested_states.setdefault(schema, set()).update(uuids)
            self._due_tasks.setdefault((NotifierTask.REQUESTED, schema), 0.0)

    def _publish_requested(self, schema: str, publish: Publish) -> int:
        # Few at a time: other tenants' changes wait meanwhile.
        requested = sorted(self._requested_states.get(schema, ()))[:_REQUESTS_AT_ONCE]
        if requested:
            outbox.publish_current(schema, requested, publish)
            # Those that are gone or deactivated, too.
            self._requested_states[schema] -= set(requested)
        # A whole batch keeps the task.
        return outbox.BATCH if self._requested_states.get(schema) else len(requested)

    def _publish_backoff_notices(self) -> None:
        """Publish the listeners' back-off notices to devices; those that cannot be published now are dropped."""
        now = time.monotonic()
        if now < self._backoff_at:
            return
        self._backoff_at = now + _BACKOFF_INTERVAL_SECONDS
        try:
            notices = backoff_notices.take_notices(_NOTICES_AT_ONCE)
        except RedisError:
            return
        if notices:
            self._broker.publish(self._backoff.messages(notices), passing_seconds=_BACKOFF_LIFETIME_SECONDS)

    def _note_requests(self) -> None:
        """Queue the states that apps requested, of devices of the tenant in the topic, at most once a second each."""
        requests = self._broker.take_requests(_REQUESTS_AT_ONCE)
        if dropped := self._broker.take_dropped():
            metrics.record({}, {"state_requests_dropped_total": dropped})
        if not requests:
            return
        try:
            routes = DeviceRoute.objects.filter(device_uuid__in=[uuid for _, uuid in requests])
            owners = list(routes.values_list("device_uuid", "tenant__slug", "tenant__schema_name"))
        except DATABASE_LOST:
            self._broker.restore_requests(requests)
            raise
        for uuid, slug, schema in owners:
            if (slug, uuid) in requests and self._may_answer(schema, uuid):
                self._request_states(schema, {uuid})

    def _may_answer(self, schema: str, uuid: UUID) -> bool:
        """Return whether no notifier has answered for the device within the last second."""
        try:
            redis = get_redis_connection("default")
            name, milliseconds = f"gwanje:answered:{schema}:{uuid}", int(1000 * _ANSWER_AGAIN_SECONDS)
            return bool(redis.set(name, 1, nx=True, px=milliseconds))
        except RedisError:
            now = time.monotonic()
            self._answered = {one: at for one, at in self._answered.items() if now - at < _ANSWER_AGAIN_SECONDS}
            return self._answered.setdefault(uuid, now) == now

    # --- unavailable servers -----------------------------------------------------------------------------------

    def _hold(self, what: str, error: Exception) -> None:
        logger.warning("%s (%s); next attempt in %.1f s", what, first_line(error), self._retry.fail())

    def _close_database(self) -> None:
        connection.close()
        if self._notifications is not None:
            self._notifications.close()
            self._notifications = None


def _active_tenants() -> dict[str, str]:
    """Return the active tenants as schema → slug."""
    return dict(Tenant.objects.filter(state=Tenant.State.ACTIVE).values_list("schema_name", "slug"))


def _pending_tasks(schema: str) -> list[NotifierTask]:
    """Return the pending tasks of the schema, from two partial indexes; no transaction and no search path."""
    quoted = connection.ops.quote_name(schema)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT EXISTS (SELECT 1 FROM {quoted}.devices_statuschange WHERE position IS NULL),"  # noqa: S608
            f" EXISTS (SELECT 1 FROM {quoted}.devices_devicestatus WHERE untold <> '')"
        )
        changes, unsettled = cursor.fetchone()
    return [NotifierTask.CHANGES] * changes + [NotifierTask.SETTLING] * unsettled
