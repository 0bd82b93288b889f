"""A tenant whose schema is faulty (a missing table or column, a broken migration, lost rights) is blocked by itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context
from psycopg import sql

from tenants.infrastructure.database import conninfo
from tests.factories import Registered

from .test_batch_overlap import values
from .test_overflow import since, totals, waiting
from .test_tenant_writer import ingest, stored

__all__ = ["ingest"]

RENAME = "ALTER TABLE {table} RENAME TO gone", "ALTER TABLE {schema}.gone RENAME TO {name}"
FAULTS = {
    "a missing table of messages": ("telemetry_message", *RENAME),
    "a missing table of readings": ("telemetry_reading", *RENAME),
    "a missing table of totals": ("telemetry_ingesttotals", *RENAME),
    "a missing table of series": ("telemetry_series", *RENAME),
    "a missing table of devices": ("devices_device", *RENAME),
    "a missing table of states": ("devices_devicestatus", *RENAME),
    "a missing column": (
        "telemetry_message",
        "ALTER TABLE {table} RENAME COLUMN received_at TO gone",
        "ALTER TABLE {table} RENAME COLUMN gone TO received_at",
    ),
    "a column without a default": (
        "telemetry_reading",
        "ALTER TABLE {table} ADD COLUMN added integer NOT NULL DEFAULT 0; ALTER TABLE {table} ALTER added DROP DEFAULT",
        "ALTER TABLE {table} DROP COLUMN added",
    ),
    "a trigger that fails": (
        "telemetry_message",
        "CREATE FUNCTION {schema}.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;"
        " CREATE TRIGGER fail BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {schema}.fail()",
        "DROP FUNCTION {schema}.fail CASCADE",
    ),
}
READ_ONCE = ["a missing table of series", "a missing table of devices", "a missing table of states"]


@pytest.fixture(autouse=True)
def _quick(live_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between two attempts are short."""
    from telemetry.services.ingest import blocked_tenants
    from telemetry.services.lookups import routing

    monkeypatch.setattr(blocked_tenants, "_SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(blocked_tenants, "_LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(routing, "_FAULTY_SECONDS", 0.01)
    with schema_context("public"), connection.cursor() as cursor:
        cursor.execute("TRUNCATE tenants_waitingmessage, tenants_overflowusage")
    get_redis_connection("default").delete("gwanje:tenant_failures", "gwanje:tenant_failures:details")


@contextmanager
def faulty(device: Registered, name: str) -> Iterator[Callable[[], None]]:
    """Break the device's tenant; the function that it yields mends it, and so does the end of the block."""
    table, broken, mended = FAULTS[name]
    names = {
        "schema": sql.Identifier(device.tenant.schema_name),
        "name": sql.Identifier(table),
        "table": sql.Identifier(device.tenant.schema_name, table),
    }
    mends = [mended]

    def execute(text: str) -> None:
        with psycopg.connect(conninfo(), autocommit=True) as own:
            own.execute(sql.SQL(text).format(**names))

    def mend() -> None:
        while mends:
            execute(mends.pop())

    execute(broken)
    try:
        yield mend
    finally:
        mend()


def retry(ingest: Any) -> Any:
    ingest._blocked._retry_at = 0.0
    for fault in ingest._blocked._faults.values():
        fault.backoff.retry_now()
    for route in ingest.router._cached.values():
        route.until = min(route.until, 0.0) if route.locked_schema else route.until
    return ingest.retry_blocked()


def retry_all(ingest: Any) -> None:
    for _ in range(200):
        retry(ingest)
        if not ingest._blocked.schemas:
            return
    raise AssertionError(f"{ingest._blocked.details()} still wait")


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_tenant_is_blocked_and_the_others_are_not(
    ingest: Any, register: Any, tenant_b: Any, name: str
) -> None:
    device, other = register(), register(tenant=tenant_b)
    before = totals(device)
    # What a listener reads of a device with its first message, it holds in memory.
    known = 0 if name in READ_ONCE else 1
    ingest.process(values(device, known, 1000))
    with faulty(device, name) as mend:
        first = values(device, 10, 0)
        batch = first + values(other, 3, 0)
        result = ingest.process(batch)
        assert result.to_acknowledge == batch[10:], "nothing of the faulty tenant is safe yet"
        assert stored(other)[0] == 3
        assert list(ingest.blocked_tenants) == [device.tenant.schema_name]
        assert retry(ingest).to_acknowledge == first, "they are safe in the overflow, however few they are"
        assert (waiting(), ingest.blocked_messages) == (10, 0)
        result = ingest.process(values(device, 5, 10) + values(other, 3, 3))
        assert (result.stored, stored(other)[0]) == (3, 6)
        assert len(retry(ingest).to_acknowledge) == 5
        mend()
        retry_all(ingest)
    assert (waiting(), ingest.blocked_tenants) == (0, {})
    assert stored(device)[0] == 15 + known
    received, kept, duplicates, *rest = since(before, device)
    assert (received, kept, rest) == (15 + known + duplicates, 15 + known, [0, 0])
    assert duplicates == 0 or name == "a missing table of states"
    result = ingest.process(values(device, 5, 20))
    assert len(result.to_acknowledge) == 5


def test_a_listener_that_starts_while_a_tenant_is_faulty(ingest: Any, register: Any, tenant_b: Any) -> None:
    """The specifications cannot be read, and neither can the deferred messages."""
    from telemetry.services.ingest import deferred_messages

    device, other = register(), register(tenant=tenant_b)
    with faulty(device, "a missing table of devices") as mend:
        result = ingest.process(values(device, 10, 0) + values(other, 3, 0))
        assert (result.stored, len(result.to_acknowledge)) == (3, 3)
        assert "devices_device" in ingest.blocked_tenants[device.tenant.schema_name]
        assert len(retry(ingest).to_acknowledge) == 10
        mend()
        retry_all(ingest)
        assert stored(device)[0] == 10
    with psycopg.connect(conninfo()) as own:
        table = sql.Identifier(device.tenant.schema_name, "telemetry_quarantined")
        own.execute(sql.SQL("ALTER TABLE {} RENAME TO gone").format(table))
        own.commit()
        try:
            ingest.deferred_schemas |= deferred_messages.find_deferred()
            assert device.tenant.schema_name in ingest.deferred_schemas, "it is looked at again"
            assert deferred_messages.replay_deferred(ingest) == 0
            assert device.tenant.schema_name in ingest.deferred_schemas
        finally:
            gone = sql.Identifier(device.tenant.schema_name, "gone")
            own.execute(sql.SQL("ALTER TABLE {} RENAME TO telemetry_quarantined").format(gone))
    assert deferred_messages.replay_deferred(ingest) == 0
    assert device.tenant.schema_name not in ingest.deferred_schemas


def test_the_attempts_of_a_faulty_tenant_have_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry.services.ingest import blocked_tenants

    monkeypatch.setattr(blocked_tenants, "_SHORTEST_PAUSE", 100.0)
    monkeypatch.setattr(blocked_tenants, "_LONGEST_PAUSE", 150.0)
    buffer = blocked_tenants.BlockedTenantBuffer()
    pauses = []
    for _ in range(3):
        buffer.add_fault("t_one", "no table")
        buffer.add_fault("t_one", "found by two batches in flight")
        pauses.append(round(buffer._faults["t_one"].backoff.remaining))
        buffer._faults["t_one"].backoff.retry_now()
    assert pauses == [100, 150, 150]


def test_a_pausing_tenant_is_not_tried_and_does_not_stop_the_loop(ingest: Any, register: Any) -> None:
    device = register()
    with faulty(device, "a missing table of messages"):
        ingest.process(values(device, 10, 0))
        retry(ingest)
        for fault in ingest._blocked._faults.values():
            fault.backoff._retry_at = float("inf")
        ingest._blocked._retry_at = 0.0
        assert not ingest.is_retry_due, "the batch in flight would be waited for"
        ingest.process(values(device, 5, 10))
        assert ingest.is_retry_due, "its new messages must be spilled"
        assert len(ingest.retry_blocked().to_acknowledge) == 5
        for fault in ingest._blocked._faults.values():
            fault.backoff.retry_now()
    retry_all(ingest)
    assert stored(device)[0] == 15


def test_blocked_tenants_are_named(ingest: Any, register: Any) -> None:
    from tenants.infrastructure.tenant_failures import current_failures, record_failures

    device = register()
    with faulty(device, "a missing table of messages"):
        ingest.process(values(device, 1, 0))
        record_failures("ingest", ingest.blocked_tenants, 5)
    (failure,) = current_failures()
    assert (failure.schema, failure.work) == (device.tenant.schema_name, "ingest")
    assert "telemetry_message" in failure.detail
    retry_all(ingest)


def test_the_overflow_of_a_faulty_tenant_has_a_bound(ingest: Any, register: Any, tenant_b: Any, settings: Any) -> None:
    """Messages beyond it are counted, and those of other tenants are stored as before."""
    from tenants.models import OverflowUsage

    device, other = register(), register(tenant=tenant_b)
    before = totals(device)
    settings.TENANT_LIMITS = settings.TENANT_LIMITS | {"overflow_megabytes": 0.004}
    with faulty(device, "a missing table of totals"):
        batch = values(device, 40, 0)
        assert ingest.process(batch + values(other, 3, 0)).stored == 3
        result = retry(ingest)
        assert result.to_acknowledge == batch
        spilled = waiting()
        assert 0 < spilled == result.spilled < 40
        assert result.limited == 40 - spilled
        ingest.find_overflow()
        assert device.tenant.schema_name in ingest.full_overflows
        more = values(device, 5, 40)
        ingest.process(more + values(other, 3, 3))
        assert retry(ingest).to_acknowledge == more
        assert waiting() == spilled, "it is full"
    retry_all(ingest)
    assert since(before, device) == (45, spilled, 0, 0, 45 - spilled)
    with schema_context(device.tenant.schema_name):
        from telemetry.models import LimitHit

        assert sum(LimitHit.objects.filter(limit="overflow_megabytes").values_list("count", flat=True)) == 45 - spilled
    with schema_context("public"):
        assert not OverflowUsage.objects.filter(schema_name=device.tenant.schema_name).exists()
    ingest.find_overflow()
    assert ingest.full_overflows == {}
