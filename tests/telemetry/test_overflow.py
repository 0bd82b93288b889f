"""A tenant whose tables are locked for long takes nobody's room: its messages are put aside, and come back in order."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection
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
    """More than 30 messages are too many to be held; a free tenant's are taken 40 at a time."""
    from telemetry.services.ingest import locked_tenants

    monkeypatch.setattr(locked_tenants, "_MOST", 30)
    monkeypatch.setattr(locked_tenants, "_BATCH", 40)
    with schema_context("public"), connection.cursor() as cursor:
        cursor.execute("TRUNCATE tenants_waitingmessage")


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
    ingest._held._retry_at = 0.0
    return ingest.retry_held()


def retry_all(ingest: Any) -> list[Any]:
    """Retry until nothing waits, here or aside; what was acknowledged."""
    settled: list[Any] = []
    for _ in range(500):
        settled += retry(ingest).settled
        if not ingest._held.schemas:
            return settled
        time.sleep(0.01)  # what was found to be locked is not asked again at once
    raise AssertionError(f"{ingest._held.schemas} still wait")


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
        tally = retry(ingest)
        assert (tally.settled, tally.put_aside, ingest.held, waiting()) == (first, 50, 0, 50)
        # What comes now waits behind it, without trying the locked tables for each batch; and the others go on.
        later = values(device, 10, 50)
        tally = ingest.process(later + values(other, 3, 3))
        assert (tally.stored, ingest.held) == (3, 10)
        tally = retry(ingest)
        assert (tally.settled, waiting()) == ([], 50)
        more = values(device, 40, 60)
        assert ingest.process(more).settled == []
        assert retry(ingest).settled == later + more
        assert waiting() == 100
        last = values(device, 5, 100)
        ingest.process(last)
    assert retry_all(ingest) == last, "the others have been acknowledged before"
    assert (waiting(), ingest.held) == (0, 0)
    count, humidities = stored(device)
    assert count == 106
    assert humidities == [30.0, *(20 + n / 100 for n in range(105))]
    assert since(before, device) == (105, 105, 0, 0, 0)


def test_another_process_takes_back_what_one_has_put_aside_that_is_gone(ingest: Any, register: Any) -> None:
    from telemetry.services.ingest.batch_pipeline import build_ingest

    device = register()
    gone = build_ingest()
    with locked(device):
        gone.process(values(device, 50, 0))
        assert len(retry(gone).settled) == 50
        ingest.find_aside()
        # What is aside comes first, also for who has not put it there.
        own = values(device, 3, 50)
        assert ingest.process(own).settled == []
    gone.storage.close()
    assert retry_all(ingest) == own
    assert stored(device) == (53, [20 + n / 100 for n in range(53)])


def test_two_processes_take_it_back_once(register: Any) -> None:
    from telemetry.services.ingest.batch_pipeline import build_ingest

    device = register()
    both = [build_ingest(), build_ingest()]
    with locked(device):
        both[0].process(values(device, 200, 0))
        assert retry(both[0]).put_aside == 200
    both[1].find_aside()

    def take(one: Any) -> None:
        retry_all(one)
        one.storage.close()
        connection.close()

    # Only one of them may take; the other one finds nothing left afterwards.
    with both[0].storage.taking_back(device.tenant.schema_name) as is_mine:
        assert is_mine
        assert retry(both[1]).taken_back == 0
    before = totals(device)
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(take, one) for one in both]:
            done.result()
    assert (stored(device)[0], waiting()) == (200, 0)
    assert since(before, device) == (200, 200, 0, 0, 0)


def test_an_older_version_that_was_put_aside_is_no_downgrade(ingest: Any, register: Any) -> None:
    device = register()
    messages, before = incoming(both_versions(device, 80)), totals(device)
    with locked(device):
        ingest.process(messages[:40])  # version 1
        assert retry(ingest).put_aside == 40
        ingest.process(messages[40:60])  # version 2
    retry_all(ingest)
    assert ingest.process(messages[60:]).stored == 20
    assert stored(device)[0] == 80
    assert since(before, device) == (80, 80, 0, 0, 0)


def test_no_rate_is_for_what_was_put_aside(ingest: Any, register: Any, tenant_a: Any) -> None:
    """They came one after the other, and are stored all at once."""
    device = register()
    set_limits(tenant_a, tenant_rate=SLOW, tenant_burst=50)
    try:
        ingest.router.forget()
        with locked(device):
            ingest.process(values(device, 45, 0))
            assert retry(ingest).put_aside == 45
            ingest.process(values(device, 45, 45))
            assert retry(ingest).put_aside == 45
        before = totals(device)
        retry_all(ingest)
        assert since(before, device) == (90, 90, 0, 0, 0)
        assert stored(device)[0] == 90
    finally:
        set_limits(tenant_a, plan=None, tenant_rate=None, tenant_burst=None)


def test_killed_between_storing_and_forgetting_it_is_stored_once(
    ingest: Any, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = register()
    before = totals(device)
    with locked(device):
        ingest.process(values(device, 50, 0))
        retry(ingest)
    drop = ingest.storage.drop_aside

    def die(numbers: Any) -> None:
        monkeypatch.setattr(ingest.storage, "drop_aside", drop)
        raise psycopg.OperationalError("the server closed the connection")

    monkeypatch.setattr(ingest.storage, "drop_aside", die)
    with pytest.raises(psycopg.OperationalError):
        retry(ingest)
    ingest.let_go()
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
            assert retry(ingest).settled == []
        retry_all(ingest)
        assert stored(device)[0] == 50
        assert waiting() == 0
        with schema_context(device.tenant.schema_name):
            from devices.models import DeviceStatus

            assert DeviceStatus.objects.get(device=device.device).status == "ONLINE"
    finally:
        connection.settings_dict["OPTIONS"].pop("options")
        connection.close()


def test_messages_of_a_device_that_is_gone_meanwhile_are_quarantined(ingest: Any, register: Any) -> None:
    from telemetry.models import Quarantined
    from tenants.models import DeviceRoute

    device = register()
    with locked(device):
        ingest.process(values(device, 50, 0))
        retry(ingest)
    with schema_context("public"):
        DeviceRoute.objects.filter(device_uuid=device.uuid).delete()
    ingest.router.forget()
    retry_all(ingest)
    assert waiting() == 0
    with schema_context(device.tenant.schema_name):
        assert Quarantined.objects.filter(topic=payloads.topic(device), reason="unknown_device").count() == 50


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
