"""The queue of background tasks, fair between tenants: a broker of django-q over its table in PostgreSQL.

A task's row is keyed by the queue and the schema that queued it. The next task is one of the tenant with the fewest
tasks in progress; among those, of the tenant that was served longest ago.
"""

from itertools import count
from time import sleep
from typing import Any

from django.db import connections
from django.db.models import QuerySet
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.models import OrmQ

from .database import current_schema

# The oldest waiting task of each key, with the number of its tasks in progress.
_HEADS = """
SELECT waiting.key, waiting.id, coalesce(running.tasks, 0)
FROM (SELECT key, min(id) AS id FROM {table} WHERE (key = %(queue)s OR starts_with(key, %(prefix)s)) AND lock < %(now)s
      GROUP BY key) AS waiting
LEFT JOIN (SELECT key, count(*) AS tasks FROM {table} WHERE lock >= %(now)s GROUP BY key) AS running USING (key)
"""
_OTHERS_WAIT = """
SELECT EXISTS (SELECT 1 FROM {table} WHERE lock < %(now)s AND key <> %(own)s
               AND (key = %(queue)s OR starts_with(key, %(prefix)s)))
    OR (EXISTS (SELECT 1 FROM {table} WHERE lock >= %(now)s AND key <> %(own)s)
        AND (SELECT count(*) FROM {table} WHERE lock >= %(now)s) > %(workers)s)
"""


class TenantBroker(ORM):
    """The broker of `Q_CLUSTER`."""

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(list_key=list_key or Conf.CLUSTER_NAME)
        # The turn in which each key was served last, of keys that had tasks since.
        self._served: dict[str, int] = {}
        self._turns = count(1)

    def enqueue(self, task: str) -> int:
        """Queue a task for the current schema."""
        row = self.get_connection().create(key=key_of(self.list_key), payload=task, lock=timezone.now())
        return int(row.pk)

    def dequeue(self) -> list[tuple[int, str]] | None:
        """Return the next task with its row's id; an empty list where another cluster was faster."""
        self.get_connection()  # closes a stale connection
        heads = _rows(_HEADS, self.list_key)
        if not heads:
            sleep(Conf.POLL)
            return None
        self._served = {key: self._served.get(key, 0) for key, _id, _running in heads}
        key, row_id, _running = min(heads, key=lambda head: (head[2], self._served[head[0]], head[1]))
        self._served[key] = next(self._turns)
        now = timezone.now()
        # Compare and set: another cluster may have chosen the same row.
        if not OrmQ.objects.using(Conf.ORM).filter(pk=row_id, lock__lt=now).update(lock=self.timeout(None)):
            return []
        return list(OrmQ.objects.using(Conf.ORM).filter(pk=row_id).values_list("pk", "payload"))

    def queue_size(self) -> int:
        """Return the number of waiting tasks."""
        return self._all().filter(lock__lte=timezone.now()).count()

    def lock_size(self) -> int:
        """Return the number of tasks in progress."""
        return self._all().filter(lock__gt=timezone.now()).count()

    def purge_queue(self) -> object:
        """Delete all tasks."""
        return self._all().delete()

    def _all(self) -> QuerySet[OrmQ]:
        own = OrmQ.objects.using(Conf.ORM)
        return own.filter(key=self.list_key) | own.filter(key__startswith=f"{self.list_key}:")


def key_of(queue: str) -> str:
    """Return the key of the current schema's tasks; tasks of the platform have the key of the queue."""
    schema = current_schema()
    return queue if schema == "public" else f"{queue}:{schema}"


def others_wait() -> bool:
    """Return whether tasks of other tenants wait for a worker, those included that a worker's queue holds already."""
    queue = Conf.CLUSTER_NAME
    return bool(_rows(_OTHERS_WAIT, queue, own=key_of(queue), workers=Conf.WORKERS)[0][0])


def _rows(statement: str, queue: str, **parameters: Any) -> list[tuple[Any, ...]]:
    connection = connections[Conf.ORM]
    table = f"public.{connection.ops.quote_name(OrmQ._meta.db_table)}"
    with connection.cursor() as cursor:
        values: dict[str, Any] = {"queue": queue, "prefix": f"{queue}:", "now": timezone.now(), **parameters}
        cursor.execute(statement.format(table=table), values)
        return list(cursor.fetchall())
