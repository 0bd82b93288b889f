"""Requests with an `Idempotency-Key` to a web process that dies, and many at once."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django_tenants.utils import schema_context

from devices.models import Device, StoredAnswer
from tests.devices.event_stream_client import Web
from tests.factories import issue_key, register_device
from tests.processes import wait_until


@pytest.fixture
def web(live_db: None, tmp_path: Path) -> Iterator[Web]:
    one = Web(tmp_path / "web.log", env={"DATABASE_LOCK_SECONDS": "60", "DATABASE_POOL_SIZE": "24"})
    yield one
    one.process.stop()


def ask(web: Web, key: str, path: str) -> tuple[int, dict[str, Any]]:
    """Return status and body of a POST; status 0 where the process died."""
    client = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Idempotency-Key": "crash"}
    try:
        client.request("POST", path, b"{}", {**headers, "Host": "localhost"})
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())
    except (http.client.RemoteDisconnected, ConnectionError):
        return 0, {}


def test_a_process_that_dies_half_way_leaves_nothing(web: Web, tenant_a: Any, tmp_path: Path) -> None:
    device, key = register_device(tenant_a), issue_key(tenant_a)
    path = f"/t/alpha/api/v1/devices/{device.uuid}/keys/"
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(ask(web, key, path)))
    with transaction.atomic(), schema_context(tenant_a.schema_name):
        Device.objects.select_for_update().get(uuid=device.uuid)  # the request waits for the row
        first.start()
        wait_until(_is_waited_for, 60, "no request waits")
        status, body = ask(web, key, path)
        assert (status, "idempotency_in_progress" in json.dumps(body)) == (409, True)
        web.process.kill()
        first.join()
    assert answers == [(0, {})]
    wait_until(lambda: not web.connections(), 20, "the connections of the dead process stay")
    again = Web(tmp_path / "again.log")
    try:
        assert _versions(tenant_a, device.uuid) == [1]
        made = [ask(again, key, path) for _ in range(2)]
        assert [status for status, _body in made] == [201, 201]
        assert len({body["kid"] for _status, body in made}) == 1
        assert len(_versions(tenant_a, device.uuid)) == 2
    finally:
        again.process.stop()
        with schema_context(tenant_a.schema_name):
            StoredAnswer.objects.all().delete()


def test_many_at_once_are_carried_out_once(web: Web, tenant_a: Any) -> None:
    device, key = register_device(tenant_a), issue_key(tenant_a)
    path = f"/t/alpha/api/v1/devices/{device.uuid}/keys/"
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(web, key, path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert {status for status, _body in answers} <= {201, 409}
        assert sum(bool(body.get("secret")) for _status, body in answers) == 1
        assert len(_versions(tenant_a, device.uuid)) == 2
    finally:
        with schema_context(tenant_a.schema_name):
            StoredAnswer.objects.all().delete()


def _is_waited_for() -> bool:
    """Whether another transaction waits for this one."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        )
        return bool(cursor.fetchone()[0])


def _versions(tenant: Any, uuid: str) -> list[int]:
    with schema_context(tenant.schema_name):
        return sorted(Device.objects.get(uuid=uuid).credentials.values_list("version", flat=True))
