"""The time that messages wait at the broker, measured from the publisher's side."""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django_redis import get_redis_connection

from management.embedded.stack import EmbeddedStack
from telemetry.services.ingest.admission import Admission
from telemetry.services.ingest.queue_probe import PROBE_SECONDS, QueueProbe
from telemetry.services.ingest.tenant_queues import TenantQueues
from telemetry.services.limits.refusals import UNREGISTERED, RefusalLimiter
from telemetry.services.lookups.routing import Router
from telemetry.services.pipeline.results import Incoming
from tenants.infrastructure.byte_bounded_cache import ByteBoundedCache
from tenants.services.limits import LimitName
from tests.mqtt import RawClient
from tests.processes import Process, wait_until


def test_the_lag_is_the_longest_wait_since_it_was_taken() -> None:
    probe = QueueProbe("listener")
    probe.receive(probe.next_payload(100.0), 103.0)
    probe.receive(probe.next_payload(104.0), 104.5)
    assert probe.take_lag(105.0) == 3.0
    assert probe.take_lag(106.0) == 0.0


def test_a_probe_that_is_not_back_counts_by_its_age() -> None:
    probe = QueueProbe("listener")
    probe.next_payload(100.0)
    assert probe.take_lag(130.0) == 30.0
    assert probe.take_lag(160.0) == 60.0


def test_a_probe_that_the_broker_lost_is_forgotten_with_the_next() -> None:
    probe = QueueProbe("listener")
    probe.next_payload(100.0)
    probe.receive(probe.next_payload(110.0), 110.5)
    probe.take_lag(111.0)
    assert probe.take_lag(200.0) == 0.0


@pytest.mark.parametrize("payload", [b"", b"x", b"00000000:1", b"\xff:1", b":"])
def test_another_payload_changes_nothing(payload: bytes) -> None:
    """A probe of a process before this one comes back too."""
    probe = QueueProbe("listener")
    probe.next_payload(100.0)
    probe.receive(payload, 101.0)
    assert probe.take_lag(102.0) == 2.0


def test_a_probe_delivered_twice_counts_once() -> None:
    probe = QueueProbe("listener")
    payload = probe.next_payload(100.0)
    probe.receive(payload, 101.0)
    probe.receive(payload, 150.0)
    assert probe.take_lag(150.0) == 1.0


def test_probes_of_a_listener_that_is_not_served_are_bounded() -> None:
    probe = QueueProbe("listener")
    for second in range(0, 10_000, 2):
        probe.next_payload(float(second))
    assert len(probe._published) == 1000
    assert probe.take_lag(10_000.0) == 10_000.0


def recorded_lag(name: str) -> float:
    """The gauge as the listener recorded it last; 0 before."""
    value = get_redis_connection("default").hget(f"gwanje:metrics:process:{name}", "ingest_broker_lag_seconds")
    return float(value or 0)


def test_a_listener_that_falls_behind_says_so(
    live_db: None, stack: EmbeddedStack, start: Callable[..., Process]
) -> None:
    """A message waits for PostgreSQL, and the probe behind it."""
    name = f"probe-{secrets.token_hex(3)}"
    listener = start("manage.py", "run_mqtt_listener", "--client-id", name)
    listener.wait_for("Connected to the broker")
    key = f"gwanje:metrics:process:{name}"
    wait_until(lambda: get_redis_connection("default").hexists(key, "ingest_broker_lag_seconds"), 60)
    stack.stop_server("postgres")
    try:
        with RawClient.of_url("MQTT_BRIDGE_URL") as bridge:
            assert bridge.publish(f"telemetry/alpha/{uuid4()}/dht22", b"of an unknown device")
        time.sleep(3 * PROBE_SECONDS)
    finally:
        stack.start_server("postgres")
    wait_until(lambda: recorded_lag(name) >= PROBE_SECONDS, 180, lambda: listener.output()[-2000:])
    wait_until(lambda: recorded_lag(name) < PROBE_SECONDS, 60, "the lag stays after the listener has caught up")


def test_internal_messages_are_not_braked_with_unknown_publishers() -> None:
    queues, refusals = TenantQueues(), RefusalLimiter({LimitName.TENANT_REFUSAL_RATE: 1.0})
    for _ in range(1000):
        refusals.charge(UNREGISTERED)
    assert refusals.is_braking
    names = ["nonsense", "broker/probe/one", "broker/event/two", "nonsense"]
    messages = [Incoming(name, b"x", datetime.now(UTC), number, 1, 1) for number, name in enumerate(names)]
    admission = Admission(Router(ttl=60), refusals, ByteBoundedCache(1000, lambda *_: 1))
    assert admission.sort(messages, queues) == 2
    assert [message.topic for message in queues.take(10)] == names[1:3]
    counts = admission.take_counts()
    assert (counts.mids, counts.unrouted) == ([0, 3], 2)
