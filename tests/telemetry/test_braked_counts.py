"""Messages of braked publishers are acknowledged when their counts are stored, so that a dead listener loses none."""

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from telemetry.services.ingest.admission import Admission
from telemetry.services.ingest.braked_counts import BrakedCounts
from telemetry.services.limits.refusals import UNREGISTERED, ExceededRate
from telemetry.services.pipeline.results import Incoming
from tenants.services.limits import LimitName
from tests.factories import Registered
from tests.faults.scenario import READY, forget_session
from tests.mqtt import RawClient
from tests.payloads import topic
from tests.processes import Process, wait_until

from .test_faulty_schema import _quick, faulty, retry_all
from .test_overflow import locked, since, totals

__all__ = ["_quick"]

# A device is braked after a burst of 200 refused messages, unregistered publishers after 2000.
COUNT = 600


@pytest.fixture
def listen(live_db: None) -> Iterator[Callable[[], Any]]:
    """Return a function that starts a listener of one session in this process."""
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.ingest.listener import Listener

    name, made = f"test-counts-{secrets.token_hex(4)}", []

    def start() -> Any:
        listener = Listener(build_pipeline(), client_id=name)
        made.append(listener)
        turn(listener, lambda: listener._session.is_connected)
        return listener

    yield start
    for listener in made:
        die(listener)
    forget_session(name)


def turn(listener: Any, condition: Callable[[], Any]) -> None:
    wait_until(lambda: listener.run_once(0.01) < 0 or condition(), 60, lambda: f"{listener.waiting} wait")


def die(listener: Any) -> None:
    """End the connections as a killed process does: nothing more is stored or acknowledged."""
    listener._session._client._sock_close()
    listener._pipeline.close()


def publish(messages: list[tuple[str, bytes]]) -> None:
    """Publish over a bridge, and wait until the broker has all messages."""
    with RawClient.of_url("MQTT_BRIDGE_URL") as bridge:
        for name, payload in messages:
            bridge.publish(name, payload)
        await_acknowledged(bridge, len(messages))


def await_acknowledged(bridge: RawClient, count: int) -> None:
    wait_until(lambda: len(bridge.acknowledged) == count, 60)


def await_received(before: tuple[int, ...], device: Registered, count: int) -> None:
    wait_until(lambda: since(before, device)[0] >= count, 60)


def braked(listener: Any, device: Registered) -> tuple[int, ...]:
    """Have the device braked, and return its tenant's totals then."""
    before = totals(device)
    publish(bad(device, 300))
    turn(listener, lambda: since(before, device)[0] == 300)
    return totals(device)


def bad(device: Registered, count: int = COUNT) -> list[tuple[str, bytes]]:
    return [(topic(device), f"bad {number}".encode()) for number in range(count)]


def of_unregistered() -> int:
    """How many messages of no tenant are stored or counted."""
    from tenants.models import SuppressedUnroutedMessages, UnroutedMessage

    with schema_context("public"):
        rows = [*UnroutedMessage.objects.values_list("count"), *SuppressedUnroutedMessages.objects.values_list("count")]
    return sum(count for (count,) in rows)


def read_and_die(listener: Any, monkeypatch: pytest.MonkeyPatch, *, acknowledging: bool = False) -> None:
    """Read until messages are counted, and die before the counts are stored."""
    session, admission = listener._session, listener._pipeline.admission
    with monkeypatch.context() as patch:
        patch.setattr(Admission, "is_store_due", False)
        for _ in range(100):
            listener.run_once(0.01)
            if acknowledging:
                session.acknowledge_ids(admission._counts.mids, admission._counts.epoch)
                admission._counts.mids = []
                session.exchange(0.0, reading=False)
    assert admission.counted > 0
    die(listener)


def test_a_listener_that_dies_before_its_counts_are_stored_loses_none(
    listen: Callable[[], Any], register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, listener = register(), listen()
    before = braked(listener, device)
    publish(bad(device))
    read_and_die(listener, monkeypatch)
    assert since(before, device)[0] < COUNT, "many are only counted in the memory of the dead listener"
    second = listen()
    turn(second, lambda: since(before, device)[0] >= COUNT)
    second.drain()
    received, stored, duplicates, quarantined, rate_limited = since(before, device)
    assert (received, stored, duplicates) == (COUNT, 0, 0)
    assert quarantined + rate_limited == COUNT


def test_acknowledged_at_once_counts_would_be_lost(
    listen: Callable[[], Any], register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    device, listener = register(), listen()
    before = braked(listener, device)
    publish(bad(device))
    read_and_die(listener, monkeypatch, acknowledging=True)
    second = listen()
    for _ in range(100):
        second.run_once(0.01)
    second.drain()
    assert since(before, device)[0] < COUNT


def test_messages_of_unregistered_publishers_are_counted_before_they_are_acknowledged(
    listen: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, before = listen(), of_unregistered()
    for _ in range(3000):  # over the burst
        listener._pipeline.refusals.charge(UNREGISTERED)
    publish([(f"telemetry/x/{uuid4()}/dht22", b"{}") for _ in range(COUNT)])
    read_and_die(listener, monkeypatch)
    assert of_unregistered() - before < COUNT
    second = listen()
    turn(second, lambda: of_unregistered() - before >= COUNT)
    second.drain()
    assert of_unregistered() - before == COUNT


@pytest.mark.slow
def test_a_listener_killed_again_and_again_in_a_flood_loses_none(live_db: None, register: Any, tmp_path: Any) -> None:
    """Each kill may count messages once more that were stored and not acknowledged, as it does for duplicates."""
    device, name, kills, count = register(), f"test-killed-{secrets.token_hex(4)}", 2, 4000
    before = totals(device)

    def start(number: int) -> Process:
        log = tmp_path / f"{number}.log"
        process = Process("manage.py", "run_mqtt_listener", "--client-id", name, log=log)
        process.wait_for(READY, 60)
        return process

    for number in range(kills):
        listener, sofar = start(number), since(before, device)[0]
        with RawClient.of_url("MQTT_BRIDGE_URL") as bridge:
            for part in range(count):
                bridge.publish(topic(device), f"bad {number} {part}".encode())
            # In the middle of it: some are stored, some counted, and some only read.
            await_received(before, device, sofar + count // 4)
            listener.kill()
            await_acknowledged(bridge, count)
    listener = start(kills)
    await_received(before, device, kills * count)
    assert listener.stop() == 0
    received, *results = since(before, device)
    assert kills * count <= received == sum(results) <= kills * (count + 2000)
    forget_session(name)


def counted(device: Registered, count: int) -> list[Incoming]:
    return [
        Incoming(name, payload, datetime.now(UTC), mid + 1) for mid, (name, payload) in enumerate(bad(device, count))
    ]


def overflow_counts(device: Registered) -> int:
    from tenants.models import OverflowCount

    with schema_context("public"):
        rows = OverflowCount.objects.filter(schema_name=device.tenant.schema_name)
        return sum(rows.values_list("count", flat=True))


@pytest.mark.parametrize("lock", [True, False], ids=["locked", "faulty"])
def test_counts_of_a_blocked_tenant_do_not_wait_for_its_tables(ingest: Any, register: Any, lock: bool) -> None:
    from telemetry.services.ingest.tenant_queues import TenantQueues

    device, queues = register(), TenantQueues()
    before = totals(device)
    messages = counted(device, COUNT)
    ingest.process(messages[:300])  # the device is braked now
    limited = ingest.admission.sort(messages[300:], queues)
    rest = queues.take(COUNT)
    assert limited > 250
    trouble = locked(device, "telemetry_ingesttotals") if lock else faulty(device, "a missing table of totals")
    with trouble:
        ingest.advance(rest, counting=True)
        result = ingest.advance(())
        assert len(result.counts.mids) == limited, "they are acknowledged"
        assert overflow_counts(device) == limited
        # In the next batch the tenant is known to be blocked.
        more = ingest.admission.sort(counted(device, 100), queues)
        ingest.advance(queues.take(COUNT), counting=True)
        assert len(ingest.advance(()).counts.mids) == more
        assert overflow_counts(device) == limited + more
    retry_all(ingest)
    assert overflow_counts(device) == 0
    received, stored, duplicates, quarantined, rate_limited = since(before, device)
    assert (received, stored, duplicates) == (COUNT + 100, 0, 0)
    assert quarantined + rate_limited == received
    assert rate_limited >= limited + more
    assert not ingest.blocked_tenants


def test_another_listener_restores_the_counts_of_a_dead_one(ingest: Any, register: Any) -> None:
    from tenants.models import OverflowCount

    device = register()
    before, schema = totals(device), device.tenant.schema_name
    with schema_context("public"):
        OverflowCount.objects.create(
            schema_name=schema, limit=LimitName.DEVICE_REFUSAL_RATE, device_id=device.device.pk, count=7
        )
    ingest.find_overflow()
    retry_all(ingest)
    assert since(before, device) == (7, 0, 0, 0, 7)


def test_counts_from_before_a_lost_connection_are_not_counted_again(ingest: Any) -> None:
    """The broker sends their messages again."""
    counts = ingest.admission.take_counts()
    counts.count(None, ExceededRate(LimitName.TENANT_REFUSAL_RATE, None), 3)
    counts.add_ids([Incoming("x", b"", datetime.now(UTC), mid) for mid in (1, 2, 3)])
    ingest.drop_blocked()
    ingest.admission.put_back(counts)
    assert ingest.admission.counted == 0
    assert not ingest.admission.is_store_due


def test_counts_keep_ids_and_no_payloads() -> None:
    counts = BrakedCounts()
    counts.add_ids([Incoming("x", b"y" * 1000, datetime.now(UTC), 1), Incoming("x", b"", datetime.now(UTC), 0, qos=0)])
    assert (counts.mids, counts.messages) == ([1], 2)


@pytest.fixture(autouse=True)
def _no_counts(live_db: None) -> None:
    with schema_context("public"), connection.cursor() as cursor:
        cursor.execute("TRUNCATE tenants_waitingmessage, tenants_overflowusage, tenants_overflowcount")
