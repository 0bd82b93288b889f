"""Exports from a real web server: whole however slowly they are read, cheap meanwhile, else broken off."""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from tests.database_outage import cut_off
from tests.devices.test_event_stream import POOL_SIZE, Web
from tests.factories import add_series, make_device
from tests.processes import wait_until

ROWS = 80_000
_FILL = """
INSERT INTO telemetry_reading (series_id, time, value)
SELECT %s, '2026-11-01 00:00:00+00'::timestamptz + n * interval '1 second', n FROM generate_series(1, %s) AS n
"""


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    server = Web(tmp_path_factory.mktemp("web") / "web.log", env={"EXPORTS_PER_KEY": "10", "EXPORTS_PER_TENANT": "10"})
    yield server
    server.process.stop()


@pytest.fixture(scope="module")
def filled(django_db_setup: None, django_db_blocker: Any, tenant_a: Any) -> Iterator[Any]:
    """A device with many readings."""
    with django_db_blocker.unblock():
        device = make_device(tenant_a, "much measured", dht22="dht22")
        series = add_series(tenant_a, device, "dht22", "temperature", "°C")
        with schema_context(tenant_a.schema_name), connection.cursor() as cursor:
            cursor.execute(_FILL, [series, ROWS])
        yield device
        with schema_context(tenant_a.schema_name), connection.cursor() as cursor:
            cursor.execute("DELETE FROM telemetry_reading WHERE series_id = %s", [series])
        connection.close()


@pytest.fixture
def key(live_db: None, tenant_a: Any) -> Any:
    """An API key, and its text."""
    from devices.services.api_keys import issue_api_key

    with schema_context(tenant_a.schema_name):
        return issue_api_key(name="an exporter")


@pytest.fixture
def export(web: Web, key: Any, filled: Any) -> Iterator[Callable[[str], http.client.HTTPResponse]]:
    """`export("csv")`: the answer, of which nothing but the head was read."""
    opened: list[Any] = []

    def ask(form: str) -> http.client.HTTPResponse:
        asked = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
        asked.connect()
        assert asked.sock
        asked.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        opened.append(asked)
        path = f"/t/alpha/api/v1/readings/export/?device={filled.uuid}&format={form}&to=2026-11-20T00:00:00Z"
        asked.request("GET", path, headers={"Authorization": f"Bearer {key[1]}"})
        answer = asked.getresponse()
        assert answer.status == 200, answer.read()
        return answer

    yield ask
    for asked in opened:
        asked.close()


def memory(web: Web) -> int:
    """The server's resident memory in MB."""
    status = Path(f"/proc/{web.process.popen.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def test_a_long_export_is_whole_and_takes_no_memory(web: Web, export: Callable[..., Any]) -> None:
    export("ndjson").read(100_000)  # what is loaded once, is
    before = memory(web)
    lines = export("ndjson").read().splitlines()
    assert len(lines) == ROWS + 1
    assert json.loads(lines[-1]) == {"complete": True, "readings": ROWS, "warnings": []}
    assert [json.loads(line)["value"] for line in lines[:-1:5000]] == [float(n) for n in range(1, ROWS + 1, 5000)]
    assert sum(map(len, lines)) > 12_000_000
    assert memory(web) - before < 15


def test_who_reads_slowly_holds_no_connection_and_no_memory(web: Web, export: Callable[..., Any]) -> None:
    export("csv").read(100_000)
    before = memory(web)
    slow = [export("csv") for _ in range(POOL_SIZE + 2)]  # more than there are connections
    for answer in slow:
        answer.read(10_000)
    # More of them than there are connections, and others are served.
    assert web.get("/healthz") == 200
    wait_until(lambda: web.connections() <= POOL_SIZE)
    wait_until(lambda: _working(web) == 0)
    assert memory(web) - before < 40
    rest = slow[0].read()
    assert rest.endswith(f"temperature,{float(ROWS)},°C\r\n".encode())


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_what_cannot_be_finished_is_broken_off(
    web: Web, export: Callable[..., Any], key: Any, form: str, stack: EmbeddedStack
) -> None:
    """The database cannot be reached from the middle of an export on."""
    wait_until(lambda: web.get("/t/alpha/api/v1/", Authorization=f"Bearer {key[1]}") == 200)
    answer = export(form)
    head = answer.read(100_000)
    with cut_off(stack, web.name), pytest.raises(http.client.IncompleteRead) as broken:
        answer.read()
    got = head + broken.value.partial
    assert got.count(b"\n") < ROWS
    if form == "ndjson":
        last = json.loads(got.splitlines()[-1])
        assert last == {"complete": False, "readings": last["readings"], "detail": "The database connection was lost."}
        assert last["readings"] == got.count(b"\n") - 1


def test_it_ends_with_the_right_to_read(live_db: None, filled: Any, tenant_a: Any, hurried: None) -> None:
    from asgiref.sync import async_to_sync

    from telemetry.models import Series
    from telemetry.services.export import readings as service

    with schema_context(tenant_a.schema_name):
        series = Series.objects.get(device=filled)
    to = datetime(2026, 11, 20, tzinfo=UTC)
    wanted = service.ReadingsExportRequest(
        tenant_a.schema_name, [service.ExportedSeries(series, str(filled.uuid))], None, to, "ndjson", []
    )
    answers = iter([True, True, False])
    said: list[bytes] = []

    async def read() -> None:
        async for text in service.stream_readings(wanted, lambda: next(answers)):
            said.append(text)

    with pytest.raises(service.ExportAborted, match="right to read"):
        async_to_sync(read)()
    lines = b"".join(said).splitlines()
    assert json.loads(lines[-1]) == {
        "complete": False, "readings": 3 * service.READINGS_PER_CHUNK, "detail": "The right to read ended.",
    }  # fmt: skip


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check runs after every piece."""
    from telemetry.services.export import readings as service

    monkeypatch.setattr(service, "CHECK_SECONDS", 0.0)


def _working(web: Web) -> int:
    """How many of the server's connections do something, or hold a transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'", [web.name]
        )
        return int(cursor.fetchone()[0])
