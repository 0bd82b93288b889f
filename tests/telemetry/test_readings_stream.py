"""The stream of readings on a real server: newest values first, resumed without gap or double, for its own tenant."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, Self

import pytest
from django_tenants.utils import schema_context

from telemetry.models import Reading
from tests import payloads
from tests.devices.event_stream_client import Stream, Web
from tests.factories import Registered, issue_key, make_tenant, register_device, remove_tenant
from tests.processes import wait_until

BEGINNING = ".0.0."


class ReadingsStream(Stream):
    """A watcher of readings."""

    def __enter__(self) -> Self:
        assert self.response.status == 200, self.response.read()
        self.last_id = self._block()["id"]
        return self

    def read(self) -> tuple[str, list[dict[str, Any]]]:
        """The kind of the next event, and its readings."""
        block = self._block()
        self.last_id = block["id"]
        if "data" not in block:
            return self.read()
        return block["event"], json.loads(block["data"])

    def values(self, count: int) -> list[float]:
        """The values of the next readings, of events of one kind."""
        found: list[float] = []
        while len(found) < count:
            kind, rows = self.read()
            assert kind == "readings"
            found += [row["value"] for row in rows]
        return found


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    server = Web(tmp_path_factory.mktemp("web") / "web.log", env={"STREAMS_PER_KEY": "100"})
    yield server
    server.process.stop()


@pytest.fixture
def tenants(live_db: None) -> Iterator[list[Any]]:
    made = [make_tenant("streamed"), make_tenant("streamed-too")]
    yield made
    for one in made:
        remove_tenant(one)


@pytest.fixture
def watch(web: Web) -> Iterator[Callable[..., ReadingsStream]]:
    """`watch(tenant, query, key=…, Last_Event_ID=…)`: a stream of the tenant's readings, not yet entered."""
    with ExitStack() as opened:

        def make(tenant: Any, query: str = "", *, key: str = "", **headers: str) -> ReadingsStream:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            sent |= {"Authorization": f"Bearer {key or issue_key(tenant)}"}
            made = ReadingsStream(web.port, f"/t/{tenant.slug}/api/v1/readings/stream/{query}", sent, 20)
            opened.callback(made.close)
            return made

        yield make


@pytest.fixture
def store(live_db: None) -> Iterator[Callable[..., None]]:
    """`store(device, 1, 2)`: messages with these numbers; a fiftieth of each is its humidity."""
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    pipeline = build_pipeline()

    def process(device: Registered, *numbers: int) -> None:
        pipeline.process(
            [
                Incoming(payloads.topic(device), payloads.v2(device, {"humidity": n / 50}, seq=n), datetime.now(UTC), n)
                for n in numbers
            ]
        )

    yield process
    pipeline.writer.close()


def test_the_newest_values_come_first_and_then_what_is_stored(watch: Any, store: Any, tenants: list[Any]) -> None:
    tenant, other = tenants
    device, stranger = register_device(tenant), register_device(other)
    store(device, 1, 2)
    with watch(tenant) as stream:
        kind, [latest] = stream.read()
        assert (kind, latest["value"], latest["metric"]) == ("latest", 0.04, "humidity")
        assert latest.keys() == {"device", "component", "metric", "value", "unit", "time"}
        store(stranger, 7)
        store(device, 3)
        store(device, 4, 5)
        assert stream.values(3) == [0.06, 0.08, 0.1]
        assert stream.is_silent(1.0)


def test_a_stream_is_resumed_without_gap_or_double(watch: Any, store: Any, tenants: list[Any]) -> None:
    device = register_device(tenants[0])
    with watch(tenants[0]) as stream:
        store(device, 1)
        assert stream.values(1) == [0.02]
        last = stream.last_id
    store(device, 2, 3)
    with watch(tenants[0], Last_Event_ID=last) as stream:
        store(device, 4)
        assert stream.values(3) == [0.04, 0.06, 0.08]
        assert stream.is_silent(1.0)


def test_one_stream_has_what_several_charts_select(watch: Any, store: Any, tenants: list[Any]) -> None:
    wanted, also, not_wanted = (register_device(tenants[0]) for _ in range(3))
    query = f"?device={wanted.uuid}&device={also.uuid}&metric=humidity&metric=temperature&component_type=dht22"
    with watch(tenants[0], query) as stream, watch(tenants[0], "?metric=temperature") as bare:
        store(not_wanted, 1)
        store(wanted, 2)
        store(also, 3)
        assert stream.values(2) == [0.04, 0.06]
        assert bare.is_silent(1.0)


def test_streams_from_far_behind_hold_up_nobody(watch: Any, store: Any, tenants: list[Any]) -> None:
    tenant, other = tenants
    device, neighbour = register_device(tenant), register_device(other)
    for first in range(0, 4000, 250):
        store(device, *range(first, first + 250))
    with schema_context(tenant.schema_name):
        assert Reading.objects.count() == 4000
    with ExitStack() as opened:
        key = issue_key(tenant)
        live = opened.enter_context(watch(other))
        behind = [opened.enter_context(watch(tenant, key=key, Last_Event_ID=BEGINNING)) for _ in range(10)]
        store(neighbour, 1)
        assert live.values(1) == [0.02]
        for stream in behind:
            assert stream.values(4000) == [n / 50 for n in range(4000)]


def test_a_stream_ends_with_its_key(watch: Any, store: Any, tenants: list[Any]) -> None:
    from devices.models import ApiKey
    from devices.services.api_keys import revoke_api_key

    with watch(tenants[0]) as stream:
        with schema_context(tenants[0].schema_name):
            revoke_api_key(ApiKey.objects.get())
        assert stream.ends()


def test_ids_that_lead_nowhere(watch: Any, store: Any, tenants: list[Any]) -> None:
    store(register_device(tenants[0]), 1)
    foreign = "00000000-0000-4000-8000-000000000000.5.0."
    for given, status, code in (("soon", 400, "invalid"), (foreign, 410, "feed_restarted")):
        response = watch(tenants[0], Last_Event_ID=given).response
        problem = json.loads(response.read())
        assert (response.status, [problem["code"], *(error["code"] for error in problem["errors"])][-1]) == (
            status,
            code,
        )


def test_without_a_stream_nothing_is_read(watch: Any, store: Any, tenants: list[Any]) -> None:
    from django.db import connection

    device = register_device(tenants[0])
    store(device, 1)

    def scans() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0) FROM pg_stat_user_tables"
                " WHERE schemaname = %s AND relname = 'telemetry_changegeneration'",
                [tenants[0].schema_name],
            )
            return int(cursor.fetchone()[0])

    with watch(tenants[0]) as stream:
        stream.read()
        before = scans()
        wait_until(lambda: scans() > before, 20, "a watched tenant is read")
    wait_until(lambda: _is_still(scans), 40, "a tenant without a stream is read")


def _is_still(count: Callable[[], int]) -> bool:
    import time

    before = count()
    time.sleep(2)
    return count() == before
