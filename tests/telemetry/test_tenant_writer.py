"""The optimistic and the conflict-aware writer: the same rows, whatever exists already, and whichever lock is held."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from django_tenants.utils import schema_context
from psycopg import sql

from tests import payloads
from tests.factories import Registered
from tests.processes import wait_until

Message = tuple[str, bytes]


@pytest.fixture
def ingest(live_db: None) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made = build_pipeline()
    yield made
    made.writer.close()


def incoming(messages: list[Message]) -> list[Any]:
    from telemetry.services.pipeline.results import Incoming

    return [Incoming(topic, payload, datetime.now(UTC), mid) for mid, (topic, payload) in enumerate(messages, 1)]


def both_versions(device: Registered, count: int, first: int = 0) -> list[Message]:
    """Version 1 and then version 2, because there is no way back."""
    half = count // 2
    values = [{"temp": 20, "humidity": 20 + n / 100} for n in range(first, first + count)]
    return [(payloads.topic(device), payloads.v1(device, value)) for value in values[:half]] + [
        (payloads.topic(device), payloads.v2(device, value, seq=first + n)) for n, value in enumerate(values[half:])
    ]


def stored(device: Registered) -> tuple[int, list[Any]]:
    """How many messages, and the humidities in order of time."""
    from telemetry.models import Message, Reading

    with schema_context(device.tenant.schema_name):
        values = Reading.objects.filter(series__device=device.device, series__metric="humidity").order_by("time")
        return Message.objects.filter(device=device.device).count(), list(values.values_list("value", flat=True))


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch, ingest: Any) -> list[str]:
    """Which way each call took."""
    taken: list[str] = []
    for name in ("receive", "store"):
        original = getattr(ingest.writer, name)

        def wrapped(*args: Any, name: str = name, original: Any = original, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            taken.append(name)
            return result

        monkeypatch.setattr(ingest.writer, name, wrapped)
    return taken


def test_a_batch_of_several_tenants_is_stored_in_one_go(
    ingest: Any, register: Any, tenant_b: Any, ways: list[str]
) -> None:
    devices = [register(), register(tenant=tenant_b)]
    batch = incoming([message for device in devices for message in both_versions(device, 20)])
    result = ingest.process(batch)
    assert (result.stored, result.to_acknowledge, ways) == (40, batch, ["receive"])
    for device in devices:
        assert stored(device) == (20, [20 + n / 100 for n in range(20)])


def test_what_is_there_already_is_stored_once_and_the_rest_goes_in(
    ingest: Any, register: Any, tenant_b: Any, ways: list[str]
) -> None:
    device, other = register(), register(tenant=tenant_b)
    messages = both_versions(device, 20)
    ingest.process(incoming(messages[:5]))
    result = ingest.process(incoming(messages + both_versions(other, 4)))
    assert (result.stored, result.duplicates) == (15 + 4, 5)
    result = ingest.process(incoming(messages[15:] + both_versions(other, 2, 10)[1:]))
    assert (result.stored, result.duplicates) == (1, 5)
    assert ways == ["receive", "store", "store", "store", "store"], "together, then each the exact way"
    assert stored(device) == (20, [20 + n / 100 for n in range(20)])
    assert stored(other)[0] == 5


def test_a_repeated_counter_in_one_batch_is_found(ingest: Any, register: Any) -> None:
    device = register()
    once, again = (payloads.v2(device, {"humidity": t}, seq=7) for t in (1, 2))
    result = ingest.process(incoming([(payloads.topic(device), once), (payloads.topic(device), again)]))
    assert (result.stored, result.quarantined) == (1, 1)
    assert stored(device) == (1, [1.0])


def test_one_message_that_postgresql_refuses_does_not_hold_up_the_others(
    ingest: Any, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No known message gets so far; the database is made to refuse one."""
    device, other = register(), register()
    with schema_context(device.tenant.schema_name):
        from django.db import connection

        table = sql.Identifier(device.tenant.schema_name, "telemetry_message").as_string()
        with connection.cursor() as cursor:
            condition = f"CHECK (device_id <> {device.device.pk}) NOT VALID"
            cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT poison {condition}")
    try:
        batch = incoming(both_versions(device, 2) + both_versions(other, 6))
        result = ingest.process(batch)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT poison")
    assert result.stored == 6
    assert {id(message) for message in result.to_acknowledge} == {id(message) for message in batch}
    assert stored(other)[0] == 6
    from tenants.models import UnroutedMessage

    with schema_context("public"):
        kept = UnroutedMessage.objects.filter(topic=payloads.topic(device))
        assert kept.count() == 2
        assert "poison" in kept[0].detail


@pytest.mark.parametrize("table", ["telemetry_reading", "devices_device", "devices_devicestatus"])
def test_a_locked_tenant_waits_and_the_others_do_not(ingest: Any, register: Any, tenant_b: Any, table: str) -> None:
    """As a migration locks: its messages are neither lost nor acknowledged, and no other tenant waits for them."""
    from django.db import connection

    from tenants.infrastructure.database import bound_lock_waits, conninfo

    bound_lock_waits(50)
    locked, free = register(), register(tenant=tenant_b)
    first = both_versions(locked, 6)
    try:
        with psycopg.connect(conninfo()) as blocker:
            blocker.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(locked.tenant.schema_name, table)))
            batch = incoming(first[:4] + both_versions(free, 6))
            result = ingest.process(batch)
            assert result.stored == 6
            assert all(free.uuid in message.topic for message in result.to_acknowledge)
            assert ingest.blocked_messages == 4
            assert ingest.process(incoming(first[4:])).to_acknowledge == []
            assert ingest.blocked_messages == 6
            assert ingest.retry_blocked().to_acknowledge == []
        settled: list[Any] = []

        def all_settled() -> bool:
            settled.extend(ingest.retry_blocked().to_acknowledge)
            return len(settled) == 6

        wait_until(all_settled, 60, lambda: f"{len(settled)} settled, {ingest.blocked_messages} held")
        assert ingest.blocked_messages == 0
        assert [message.payload for message in settled] == [payload for _, payload in first]
        assert stored(locked) == (6, [20 + n / 100 for n in range(6)])
        with schema_context(locked.tenant.schema_name):
            from devices.models import DeviceStatus

            assert DeviceStatus.objects.get(device=locked.device).status == "ONLINE"
    finally:
        connection.settings_dict["OPTIONS"].pop("options")
        connection.close()


def test_two_listeners_that_store_the_same_messages_store_them_once(
    register: Any, tenant_b: Any, live_db: None
) -> None:
    """Each batch goes to both, in pieces of its own, at the same time."""
    from django.db import connection

    from telemetry.services.ingest.batch_pipeline import build_pipeline

    devices = [register(), register(tenant=tenant_b)]
    messages = [
        (payloads.topic(device), payloads.v2(device, {"humidity": 20 + n / 100}, seq=n))
        for n in range(200)
        for device in devices
    ]
    failures: list[BaseException] = []

    def work(size: int) -> None:
        ingest = build_pipeline()
        try:
            left = incoming(messages)
            while left:
                settled = {id(m) for m in ingest.process(left[:size]).to_acknowledge} | {
                    id(m) for m in ingest.retry_blocked().to_acknowledge
                }
                left = (
                    [message for message in left if id(message) not in settled]
                    if not ingest.blocked_messages
                    else left[size:]
                )
            while ingest.blocked_messages:
                ingest.retry_blocked()
        except BaseException as error:  # noqa: BLE001 (the test shows it)
            failures.append(error)
        finally:
            ingest.writer.close()
            connection.close()

    threads = [threading.Thread(target=work, args=(size,)) for size in (37, 61)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for device in devices:
        count, values = stored(device)
        assert (count, sorted(values)) == (200, [20 + n / 100 for n in range(200)])


def test_arrays_are_what_postgresql_reads() -> None:
    """Every kind of array, sent and read back."""
    from telemetry.services.storage import statements
    from tenants.infrastructure.database import conninfo

    moment = datetime(2026, 11, 24, 1, 2, 3, 456789, tzinfo=UTC)
    cases: list[tuple[Callable[[Any], Any], list[Any], str, list[Any]]] = [
        (statements.int8_array, [1, -(2**63), 2**63 - 1], "bigint", [1, -(2**63), 2**63 - 1]),
        (statements.int4_array, [0, -5], "integer", [0, -5]),
        (statements.int2_array, [2], "smallint", [2]),
        (statements.bool_array, [True, False], "boolean", [True, False]),
        (statements.time_array, [statements.micros(moment)], "timestamptz", [moment]),
        (statements.uuid_array, [bytes(range(16))], "uuid", ["00010203-0405-0607-0809-0a0b0c0d0e0f"]),
        (statements.float8_array, [1.5, None, float("-inf")], "double precision", [1.5, None, float("-inf")]),
        (statements.text_array, ["", "°C", None], "text", ["", "°C", None]),
        (statements.bytes_array, [b"", b"\x00\xff"], "bytea", [b"", b"\x00\xff"]),
        (statements.int8_array, [], "bigint", []),
    ]
    with psycopg.connect(conninfo()) as connection:
        statements.register_arrays(connection.adapters)
        for pack, values, kind, expected in cases:
            row = connection.execute("SELECT pg_typeof(%s)::text, ARRAY(SELECT unnest(%s)) AS a", [pack(values)] * 2)
            found = row.fetchone()
            assert found is not None
            assert found[0] == f"{'timestamp with time zone' if kind == 'timestamptz' else kind}[]"
            read = [value.astimezone(UTC) if isinstance(value, datetime) else value for value in found[1]]
            assert [str(v) if kind == "uuid" else v for v in read] == expected
