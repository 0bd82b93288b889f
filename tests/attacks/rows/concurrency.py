"""Many operations of one tenant at a time: event streams, exports and background tasks."""

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime

from django.conf import settings
from django.db import connection
from django.utils import timezone
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from tenants.infrastructure import tasks
from tenants.models import Tenant
from tests.attacks.arena import Arena, open_files, threads
from tests.attacks.attack import Measurement, attack, brake
from tests.devices.event_stream_client import Stream
from tests.factories import issue_key
from tests.faults.fleet import Sender
from tests.processes import wait_until

_STREAMS = 160
_EXPORTS = 16
_TASKS = 80
_TASK_SECONDS = 0.3
_READINGS = 80_000
# Of a web process in general: connections of pools, and threads that serve requests.
_FILES, _THREADS = 24, 24
_FILL = """
INSERT INTO telemetry_reading (series_id, time, value)
SELECT %s, '2026-11-01 00:00:00+00'::timestamptz + n * interval '1 second', n FROM generate_series(1, %s) AS n
"""


@brake("concurrency limits")
def without_concurrency_limits() -> None:
    """Accept every number of operations at a time."""
    settings.CONCURRENCY_LIMITS = {
        operation: dict.fromkeys(limits, 0) for operation, limits in settings.CONCURRENCY_LIMITS.items()
    }


def _is_delivered(stream: Stream, uuid: str) -> bool:
    """Return whether the stream delivers a change of the device; other devices of the tenant may change before it."""
    with suppress(OSError, AssertionError):
        return any(stream.event()["device"] == uuid for _ in range(100))
    return False


@attack("event-streams", "one key opens many event streams", brake="concurrency limits", short=True)
def event_streams(arena: Arena) -> Measurement:
    """Open streams with one key; a neighbour's stream still delivers a change."""
    web, port = arena.serve()
    text = issue_key(arena.attacker, "read")
    files, running, clients = open_files(web), threads(web), _redis_clients()
    with ExitStack() as opened:
        neighbour = opened.enter_context(_stream(port, arena.neighbour, issue_key(arena.neighbour, "read")))
        streams = [_stream(port, arena.attacker, text) for _ in range(arena.scaled(_STREAMS))]
        for stream in streams:
            opened.callback(stream.close)
        admitted = sum(stream.response.status == 200 for stream in streams)
        for stream in streams:
            if stream.response.status != 200:
                stream.close()
        time.sleep(0.5)
        began = time.monotonic()
        _change(arena.neighbours[0])
        delivered = _is_delivered(neighbour, arena.neighbours[0].uuid)
        measurement = Measurement(
            {"attempts": len(streams), "delivered_ms": round(1000 * (time.monotonic() - began), 1)}
        )
        measurement.bound("streams of the key", admitted, 20)
        measurement.bound("files more", open_files(web) - files, 20 + _FILES)
        measurement.bound("threads more", threads(web) - running, _THREADS)
        measurement.bound("clients of Redis more", _redis_clients() - clients, 8)
        measurement.bound("changes that the neighbour missed", 0 if delivered else 1, 0)
    return measurement


@brake("one subscription for all streams")
def without_hub() -> None:
    """Give each stream a hub, and with it a connection, of its own."""
    from devices.services.notifications import event_stream, stream_hub

    event_stream.hub = stream_hub.StreamHub
    without_concurrency_limits()


@attack("stream-cost", "300 streams of many keys", brake="one subscription for all streams")
def stream_cost(arena: Arena) -> Measurement:
    """Open as many streams as a tenant may, 20 with each key, and count what they cost."""
    web, port = arena.serve()
    files, running, clients = open_files(web), threads(web), _redis_clients()
    count = arena.scaled(_STREAMS)
    keys = [issue_key(arena.attacker, "read") for _ in range(0, count, 20)]
    with ExitStack() as opened:
        for number in range(count):
            opened.enter_context(_stream(port, arena.attacker, keys[number // 20]))
        measurement = Measurement({"streams": count})
        measurement.bound("files more", open_files(web) - files, count + _FILES)
        measurement.bound("threads more", threads(web) - running, _THREADS)
        measurement.bound("clients of Redis more", _redis_clients() - clients, 8)
    return measurement


@attack("exports", "one key begins many exports and does not read them", brake="concurrency limits", short=True)
def exports(arena: Arena) -> Measurement:
    """Begin exports of many readings through connections that receive nothing; a neighbour exports as well."""
    web, port = arena.serve()
    sender, before = arena.attackers[0], threads(web)
    paths = [
        f"/t/{one.slug}/api/v1/readings/export/?device={one.uuid}&format=ndjson"
        for one in (sender, arena.neighbours[0])
    ]
    key = issue_key(arena.attacker, "read")
    with _filled(sender), ExitStack() as opened:
        statuses = []
        for _ in range(arena.scaled(_EXPORTS)):
            begun, status = _begin(port, paths[0], key)
            opened.callback(begun.close)
            statuses.append(status)
        other, other_status = _begin(port, paths[1], issue_key(arena.neighbour, "read"))
        other.close()
        measurement = Measurement({"attempts": len(statuses), "refused": statuses.count(429)})
        measurement.bound("exports of the key", statuses.count(200), 2)
        measurement.bound("threads more", threads(web) - before, _THREADS)
        measurement.bound("refused exports of the neighbour", int(other_status != 200), 0)
    return measurement


@brake("turns of tenants")
def without_turns() -> None:
    """Take the tasks in the order in which they were queued."""
    from django_q.models import OrmQ

    from tenants.infrastructure.task_broker import TenantBroker

    def dequeue(self: TenantBroker) -> list[tuple[int, str]]:
        row = OrmQ.objects.filter(lock__lt=timezone.now()).order_by("pk").first()
        if row is None:
            time.sleep(0.1)
            return []
        OrmQ.objects.filter(pk=row.pk).update(lock=self.timeout(None))
        return [(row.pk, row.payload)]

    TenantBroker.dequeue = dequeue  # type: ignore[method-assign]


def slow_task() -> None:
    """Occupy a worker for a while."""
    time.sleep(_TASK_SECONDS)


def quick_task() -> None:
    """Do nothing: the neighbour's task."""


@attack("task-backlog", "one tenant queues many tasks", brake="turns of tenants", short=True)
def task_backlog(arena: Arena) -> Measurement:
    """Queue many tasks, then one of the neighbour; count those that are done before it."""
    from django_q.models import OrmQ, Success

    module = "tests.attacks.rows.concurrency"
    with schema_context(arena.attacker.schema_name):
        many = [tasks.enqueue(f"{module}.slow_task") for _ in range(arena.scaled(_TASKS))]
    with schema_context(arena.neighbour.schema_name):
        one = tasks.enqueue(f"{module}.quick_task")
    connection.close()
    worker = arena.start("manage.py", "qcluster")
    try:
        wait_until(lambda: Success.objects.filter(id=one).exists(), 120, lambda: worker.output()[-1000:])
        before = Success.objects.filter(id__in=many, stopped__lte=Success.objects.get(id=one).stopped).count()
    finally:
        OrmQ.objects.all().delete()
        connection.close()
    measurement = Measurement({"tasks of the attacker": len(many)})
    # Each of two workers may run one, and two more wait in the cluster's own queue.
    measurement.bound("tasks before the neighbour's", before, 6)
    return measurement


def _stream(port: int, tenant: Tenant, key: str) -> Stream:
    return Stream(port, f"/t/{tenant.slug}/api/v1/events/", {"Authorization": f"Bearer {key}"}, timeout=20)


def _redis_clients() -> int:
    return len(get_redis_connection("default").client_list())


def _change(sender: Sender) -> None:
    """Change the state of a device, and publish it to streams."""
    from devices.services.notifications.outbox import publish_changes
    from devices.services.presence.state_machine import Signal
    from devices.services.presence.state_store import apply_signals

    for kind in ("birth", "will"):
        now = datetime.now(UTC)
        apply_signals(sender.schema, [(sender.device_id, Signal(kind, now))], now)
    while publish_changes(sender.schema, lambda _: None):
        pass
    connection.close()


@contextmanager
def _filled(sender: Sender) -> Iterator[None]:
    """Store readings of a device for a while."""
    from telemetry.models import Series

    with schema_context(sender.schema), connection.cursor() as cursor:
        series = Series.objects.create(device_id=sender.device_id, component="attack", metric="value", unit="")
        cursor.execute(_FILL, [series.pk, _READINGS])
    try:
        yield
    finally:
        with schema_context(sender.schema), connection.cursor() as cursor:
            cursor.execute("DELETE FROM telemetry_reading WHERE series_id = %s", [series.pk])
            series.delete()
        connection.close()


def _begin(port: int, path: str, key: str) -> tuple[http.client.HTTPConnection, int]:
    """Begin a download of which nothing but the status is read; return its connection too."""
    begun = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    begun.connect()
    begun.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    begun.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    with suppress(OSError, http.client.HTTPException):
        return begun, begun.getresponse().status
    return begun, 0
