"""Overflow: the messages of a tenant whose tables are locked for long are spilled, and restored in their order."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context
from psycopg import sql

from tenants.infrastructure.database import conninfo
from tests import payloads
from tests.factories import Registered
from tests.telemetry.test_limits_ingest import SLOW, set_limits

from .test_batch_overlap import values
from .test_tenant_writer import both_versions, incoming, ingest, stored

__all__ = ["ingest"]


@pytest.fixture(autouse=True)
def _few(live_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capacity is 30 messages; those of a free tenant are stored 40 at a time."""
    from telemetry.services.ingest import blocked_tenants

    monkeypatch.setattr(blocked_tenants, "_CAPACITY", 30)
    monkeypatch.setattr(blocked_tenants, "_BATCH_SIZE", 40)
    with schema_context("public"), connection.cursor() as cursor:
        cursor.execute("TRUNCATE tenants_waitingmessage, tenants_overflowusage")


@contextmanager
def locked(device: Registered, table: str = "telemetry_message") -> Iterator[None]:
    with psycopg.connect(conninfo()) as blocker:
        blocker.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(device.tenant.schema_name, table)))
        yield


def waiting() -> int:
    from tenants.models import OverflowMessage

    with schema_context("public"):
        return OverflowMessage.objects.count()


def retry(ingest: Any) -> Any:
    ingest._blocked._retry_at = 0.0
    return ingest.retry_blocked()


def retry_all(ingest: Any) -> list[Any]:
    """Retry until nothing waits, here or in the overflow; what was acknowledged."""
    settled: list[Any] = []
    for _ in range(500):
        settled += retry(ingest).to_acknowledge
        if not ingest._blocked.schemas:
            return settled
        time.sleep(0.01)  # a tenant that was found to be locked is not tried again at once
    raise AssertionError(f"{ingest._blocked.schemas} still wait")


def since(before: tuple[int, ...], device: Registered) -> tuple[int, ...]:
    """What was added to the tenant's totals."""
    return tuple(now - then for now, then in zip(totals(device), before, strict=True))


def totals(device: Registered) -> tuple[int, ...]:
    """Received, stored, duplicates, quarantined, rate limited."""
    from telemetry.models import IngestTotals

    names = ("received", "stored", "duplicates", "quarantined", "rate_limited")
    with schema_context(device.tenant.schema_name):
        rows = IngestTotals.objects.values_list(*names)
        return tuple(map(sum, zip(*rows, strict=True))) if rows else (0,) * 5


def test_many_messages_of_a_locked_tenant_are_acknowledged_and_stored_later(
    ingest: Any, register: Any, tenant_b: Any
) -> None:
    device, other = register(), register(tenant=tenant_b)
    ingest.process(values(device, 1, 1000))
    before = totals(device)
    with locked(device):
        first = values(device, 50, 0)
        assert ingest.process(first + values(other, 3, 0)).stored == 3
        result = retry(ingest)
        assert (result.to_acknowledge, result.spilled, ingest.blocked_messages, waiting()) == (first, 50, 0, 50)
        # What comes now waits behind it, without trying the locked tables for each batch; and the others go on.
        later = values(device, 10, 50)
        result = ingest.process(later + values(other, 3, 3))
        assert (result.stored, ingest.blocked_messages) == (3, 10)
        result = retry(ingest)
        assert (result.to_acknowledge, waiting()) == ([], 50)
        more = values(device, 40, 60)
        assert ingest.process(more).to_acknowledge == []
        assert retry(ingest).to_acknowledge == later + more
        assert waiting() == 100
        last = values(device, 5, 100)
        ingest.process(last)
    assert retry_all(ingest) == last, "the others have been acknowledged before"
    assert (waiting(), ingest.blocked_messages) == (0, 0)
    count, humidities = stored(device)
    assert count == 106
    assert humidities == [30.0, *(20 + n / 100 for n in range(105))]
    assert since(before, device) == (105, 105, 0, 0, 0)


def test_another_process_restores_what_a_dead_one_has_spilled(ingest: Any, register: Any) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    device = register()
    gone = build_pipeline()
    with locked(device):
        gone.process(values(device, 50, 0))
        assert len(retry(gone).to_acknowledge) == 50
        ingest.find_overflow()
        # The overflow comes first, also for a listener that has not spilled it.
        own = values(device, 3, 50)
        assert ingest.process(own).to_acknowledge == []
    gone.writer.close()
    assert retry_all(ingest) == own
    assert stored(device) == (53, [20 + n / 100 for n in range(53)])


def test_two_processes_restore_the_overflow_once(register: Any) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.storage import overflow

    device = register()
    both = [build_pipeline(), build_pipeline()]
    with locked(device):
        both[0].process(values(device, 200, 0))
        assert retry(both[0]).spilled == 200
    both[1].find_overflow()

    def take(one: Any) -> None:
        retry_all(one)
        one.writer.close()
        connection.close()

    # Only one of them may restore; the other one finds nothing left afterwards.
    with overflow.restore_lock(both[0].writer.connect(), device.tenant.schema_name) as is_mine:
        assert is_mine
        assert retry(both[1]).restored == 0
    before = totals(device)
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(take, one) for one in both]:
            done.result()
    assert (stored(device)[0], waiting()) == (200, 0)
    assert since(before, device) == (200, 200, 0, 0, 0)


def test_an_older_version_in_the_overflow_is_not_a_downgrade(ingest: Any, register: Any) -> None:
    device = register()
    messages, before = incoming(both_versions(device, 80)), totals(device)
    with locked(device):
        ingest.process(messages[:40])  # version 1
        assert retry(ingest).spilled == 40
        ingest.process(messages[40:60])  # version 2
    retry_all(ingest)
    assert ingest.process(messages[60:]).stored == 20
    assert stored(device)[0] == 80
    assert since(before, device) == (80, 80, 0, 0, 0)


def test_rates_do_not_limit_restored_messages(ingest: Any, register: Any, tenant_a: Any) -> None:
    """They came one after the other, and are stored all at once."""
    from telemetry.services.limits.buckets import bucket_key

    device = register()
    get_redis_connection("default").delete(bucket_key(tenant_a.schema_name, "tenant_rate"))  # full, whatever ran before
    set_limits(tenant_a, tenant_rate=SLOW, tenant_burst=50)
    try:
        ingest.router.forget()
        with locked(device):
            ingest.process(values(device, 45, 0))
            assert retry(ingest).spilled == 45
            ingest.process(values(device, 45, 45))
            assert retry(ingest).spilled == 45
        before = totals(device)
        retry_all(ingest)
        assert since(before, device) == (90, 90, 0, 0, 0)
        assert stored(device)[0] == 90
    finally:
        set_limits(tenant_a, plan=None, tenant_rate=None, tenant_burst=None)


def test_killed_between_storing_and_deleting_it_is_stored_once(
    ingest: Any, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telemetry.services.storage import overflow

    device = register()
    before = totals(device)
    with locked(device):
        ingest.process(values(device, 50, 0))
        retry(ingest)
    delete = overflow.delete

    def die(connection: Any, numbers: Any) -> None:
        monkeypatch.setattr(overflow, "delete", delete)
        raise psycopg.OperationalError("the server closed the connection")

    monkeypatch.setattr(overflow, "delete", die)
    with pytest.raises(psycopg.OperationalError):
        retry(ingest)
    ingest.abandon()
    assert waiting() == 50
    retry_all(ingest)
    assert stored(device) == (50, [20 + n / 100 for n in range(50)])
    received, kept, again, *others = since(before, device)
    assert (received, kept, others) == (kept + again, 50, [0, 0])


@pytest.mark.parametrize("table", ["telemetry_reading", "devices_device", "devices_devicestatus"])
def test_whatever_is_locked(ingest: Any, register: Any, table: str) -> None:
    from tenants.infrastructure.database import bound_lock_waits

    bound_lock_waits(50)
    device = register()
    try:
        with locked(device, table):
            ingest.process(values(device, 50, 0))
            retry(ingest)
            assert waiting() == 50
            assert retry(ingest).to_acknowledge == []
        retry_all(ingest)
        assert stored(device)[0] == 50
        assert waiting() == 0
        with schema_context(device.tenant.schema_name):
            from devices.models import DeviceStatus

            assert DeviceStatus.objects.get(device=device.device).status == "ONLINE"
    finally:
        connection.settings_dict["OPTIONS"].pop("options")
        connection.close()


def test_messages_of_a_device_that_is_gone_meanwhile_are_unrouted(ingest: Any, register: Any) -> None:
    from tenants.models import DeviceRoute, UnroutedMessage

    device = register()
    with locked(device):
        ingest.process(values(device, 50, 0))
        retry(ingest)
    with schema_context("public"):
        DeviceRoute.objects.filter(device_uuid=device.uuid).delete()
    ingest.router.forget()
    retry_all(ingest)
    assert waiting() == 0
    with schema_context("public"):
        assert UnroutedMessage.objects.filter(topic=payloads.topic(device), reason="unknown_device").count() == 50


def test_one_that_cannot_be_stored_does_not_stay_in_the_way(ingest: Any, register: Any) -> None:
    from tenants.models import UnroutedMessage

    device, other = register(), register()
    table = sql.Identifier(device.tenant.schema_name, "telemetry_message").as_string()
    with locked(device):
        ingest.process(values(device, 20, 0) + values(other, 20, 0))
        retry(ingest)
        assert waiting() == 40
    with schema_context(device.tenant.schema_name), connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT poison CHECK (device_id <> {device.device.pk}) NOT VALID")
    try:
        retry_all(ingest)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT poison")
    assert (waiting(), stored(other)[0]) == (0, 20)
    with schema_context("public"):
        assert UnroutedMessage.objects.filter(topic=payloads.topic(device)).count() == 20
