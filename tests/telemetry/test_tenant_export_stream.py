"""The whole of a tenant from a real web server: read slowly, broken off, and ended with the right to read."""

import http.client
import io
import json
import os
import socket
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from tests.api.client import T0
from tests.database_outage import cut_off
from tests.devices.test_event_stream import Web
from tests.factories import add_message, issue_key, make_device
from tests.processes import wait_until

from .test_export import _working, memory

MESSAGES, BYTES = 300, 40_000


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    server = Web(tmp_path_factory.mktemp("web") / "web.log")
    yield server
    server.process.stop()


@pytest.fixture
def filled(live_db: None, tenant_a: Any) -> Iterator[Any]:
    """A device with 12 MB of messages that nothing makes smaller."""
    device = make_device(tenant_a, "much received", dht22="dht22")
    for number in range(MESSAGES):
        add_message(tenant_a, device, T0 + timedelta(seconds=number), os.urandom(BYTES))
    yield device
    with schema_context(tenant_a.schema_name), connection.cursor() as cursor:
        cursor.execute("DELETE FROM telemetry_message WHERE device_id = %s", [device.pk])
        device.delete()


def ask(web: Web, key: str) -> tuple[Any, http.client.HTTPResponse]:
    """The answer, of which nothing but the head was read."""
    asked = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    asked.connect()
    asked.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    asked.request("GET", "/t/alpha/api/v1/export/", headers={"Authorization": f"Bearer {key}"})
    answer = asked.getresponse()
    assert answer.status == 200, answer.read()
    return asked, answer


def test_who_reads_slowly_holds_no_connection_and_gets_all_of_it(
    web: Web,
    filled: Any,
    tenant_a: Any,
) -> None:
    asked, answer = ask(web, issue_key(tenant_a, "admin"))
    head = answer.read(200_000)
    wait_until(lambda: _working(web) == 0)
    before = memory(web)
    asked.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)  # the rest at once
    content = head + answer.read()
    asked.close()
    assert memory(web) - before < 30
    tenant_archive = zipfile.ZipFile(io.BytesIO(content))
    assert tenant_archive.testzip() is None
    manifest = json.loads(tenant_archive.read("manifest.json"))
    rows = {file["name"]: file["rows"] for file in manifest["files"]}
    assert rows["telemetry.message.ndjson"] >= MESSAGES
    assert len(content) > MESSAGES * BYTES


def test_what_cannot_be_finished_is_broken_off(web: Web, filled: Any, tenant_a: Any, stack: EmbeddedStack) -> None:
    """The database cannot be reached from the middle of the export on."""
    key = issue_key(tenant_a, "admin")
    wait_until(lambda: web.get("/t/alpha/api/v1/", Authorization=f"Bearer {key}") == 200)
    asked, answer = ask(web, key)
    head = answer.read(200_000)
    with cut_off(stack, web.name), pytest.raises(http.client.IncompleteRead) as broken:
        answer.read()
    asked.close()
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(head + broken.value.partial))


def test_it_ends_with_the_right_to_read(filled: Any, tenant_a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry.services.export import tenant_archive

    monkeypatch.setattr(tenant_archive, "CHECK_SECONDS", 0.0)
    answers = iter([True, True, False])

    async def read() -> None:
        async for _chunk in tenant_archive.stream_archive(tenant_a, lambda: next(answers)):
            pass

    with pytest.raises(tenant_archive.ExportAborted, match="right to read"):
        async_to_sync(read)()
