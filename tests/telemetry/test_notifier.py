"""The notifier on a real broker: published states, their order, and publication after a failure."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from telemetry.services.notifier import notifier as notifier_module
from tests import payloads
from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import Process, wait_until
from tests.redis_recovery import wait_for_redis


def change(device: Registered, *kinds: str, at: datetime | None = None) -> None:
    """Signals of the device, one after the other, as the listener and the checker apply them."""
    from devices.services.presence.state_machine import Signal
    from devices.services.presence.state_store import apply_signals

    for kind in kinds:
        now = at or datetime.now(UTC)
        apply_signals(device.tenant.schema_name, [(device.device.pk, Signal(kind, now))], now)  # type: ignore[arg-type]


def status_changes(device: Registered) -> list[tuple[str, int | None, str]]:
    """(state, position, quiet) of the device's changes, oldest first."""
    from devices.models import StatusChange

    with schema_context(device.tenant.schema_name):
        rows = StatusChange.objects.filter(device=device.device).order_by("id")
        return list(rows.values_list("to_status", "position", "suppressed_by"))


def state_topic(device: Registered) -> str:
    return f"client/state/{device.tenant.slug}/{device.uuid}"


def publications(app: RawClient, device: Registered) -> list[dict[str, Any]]:
    """What the app was delivered of the device, oldest first."""
    return [json.loads(payload) for topic, payload in app.received if topic == state_topic(device)]


@pytest.fixture
def notify(start: Callable[..., Process]) -> Iterator[Callable[..., Process]]:
    """Start a notifier; its session does not stay at the broker."""
    used: set[str] = set()

    def make(*client_ids: str) -> Process:
        """The last of them, when all are connected."""
        names = client_ids or ("notifier-under-test",)
        used.update(names)
        processes = [start("manage.py", "run_notifier", "--client-id", name, "--look", "0.5") for name in names]
        for process in processes:
            process.wait_for("Connected to the broker")
        return processes[-1]

    yield make
    for client_id in used:
        with RawClient.of_url("MQTT_URL", client_id=client_id, clean=True):
            pass


@pytest.fixture
def app(live_db: None) -> Iterator[Callable[..., RawClient]]:
    """`app(tenant)`: an app with an API key that is subscribed to the tenant's states."""
    from devices.services.api_keys import issue_api_key

    with ExitStack() as opened:

        def make(tenant: Any) -> RawClient:
            with schema_context(tenant.schema_name):
                key, text = issue_api_key(name="an app")
            client = opened.enter_context(RawClient(key.prefix, text))
            assert client.subscribe(f"client/state/{tenant.slug}/#")
            return client

        yield make


def test_an_app_is_told_the_state_with_the_latest_values(
    register: Any, notify: Callable[..., Process], app: Callable[..., RawClient]
) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    device, ingest = register(), build_pipeline()
    client, notifier = app(device.tenant), notify()
    message = payloads.v1(device, {"temp": 25.5, "humidity": 45.1})
    ingest.process([Incoming(payloads.topic(device), message, datetime.now(UTC))])
    ingest.writer.close()
    (state,) = wait_until(lambda: publications(client, device), 60)
    seen = datetime.fromisoformat(state.pop("last_seen_at"))
    assert abs((datetime.now(UTC) - seen).total_seconds()) < 60
    assert state == {
        "device_status": "ONLINE",
        "status_reason": "telemetry",
        "temperature": 25.5,
        "humidity": 45.1,
        "units": {"temperature": "°C", "humidity": "%"},
    }
    late = app(device.tenant)
    wait_until(lambda: publications(late, device), 60)
    assert publications(late, device)[0]["device_status"] == "ONLINE", "the state is retained"
    assert notifier.stop() == 0


def test_a_notifier_killed_while_the_broker_is_away_tells_afterwards_once(
    register: Any, notify: Callable[..., Process], app: Callable[..., RawClient], stack: EmbeddedStack
) -> None:
    device, notifier = register(), notify()
    stack.stop_server("mosquitto")
    try:
        change(device, "birth")
        time.sleep(0.5)
        notifier.signal(signal.SIGKILL)
        assert status_changes(device) == [("ONLINE", None, "")], "it is not published, so it has no position"
    finally:
        stack.start_server("mosquitto")
    client = app(device.tenant)
    notifier = notify()
    wait_until(lambda: publications(client, device), 180, notifier.log.read_text)
    time.sleep(1)
    assert [state["device_status"] for state in publications(client, device)] == ["ONLINE"]
    ((_, position, _),) = status_changes(device)
    assert position
    assert positions_are_unique(device)


def test_two_notifiers_tell_each_change_once_and_in_order(
    register: Any, notify: Callable[..., Process], app: Callable[..., RawClient], tenant_b: Any
) -> None:
    devices = [register(), register(), register(tenant=tenant_b), register(tenant=tenant_b)]
    clients = {device.uuid: app(device.tenant) for device in devices}
    notify("notifier-1", "notifier-2")
    kinds = ("birth", "will", "birth", "will")  # few enough not to be flapping
    for kind in kinds:
        for device in devices:
            change(device, kind)
    wait_until(lambda: all(position for device in devices for _, position, _ in status_changes(device)), 60)
    for device in devices:
        client = clients[device.uuid]
        wait_until(lambda: len(publications(client, device)) >= len(kinds))  # noqa: B023 (called at once)
    time.sleep(0.5)
    for device in devices:
        states = [state["device_status"] for state in publications(clients[device.uuid], device)]
        assert states == ["ONLINE", "OFFLINE", "ONLINE", "OFFLINE"]
        positions = [position or 0 for _, position, _ in status_changes(device)]
        assert positions == sorted(positions)
        assert positions_are_unique(device)


def positions_are_unique(device: Registered) -> bool:
    from devices.models import StatusChange, StatusFeed

    with schema_context(device.tenant.schema_name):
        given = list(StatusChange.objects.exclude(position=None).values_list("position", flat=True))
        return len(set(given)) == len(given) and max(p or 0 for p in given) == StatusFeed.objects.get().position


@pytest.fixture
def notifier(live_db: None) -> Iterator[Any]:
    """A notifier whose steps the test makes itself."""
    from telemetry.services.notifier.notifier import Notifier

    made = Notifier(client_id="notifier-in-the-test", look_seconds=0.2)
    run_until(made, lambda: made._broker.is_connected)
    yield made
    made.close()
    with RawClient.of_url("MQTT_URL", client_id="notifier-in-the-test", clean=True):
        pass


def run_until(notifier: Any, condition: Callable[[], Any], timeout: float = 60) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "not in time"
        notifier.run_once(0.05)
    return value


def run_for(notifier: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        notifier.run_once(0.05)


def test_servers_that_go_and_come_back_cost_no_change(
    register: Any, notifier: Any, app: Callable[..., RawClient], stack: EmbeddedStack
) -> None:
    device = register()
    stack.restart("mosquitto")
    change(device, "birth")
    run_until(notifier, lambda: status_changes(device)[-1][1])
    stack.kill("postgres")
    stack.wait_ready("postgres")
    connection.close()
    change(device, "will")
    run_until(notifier, lambda: status_changes(device)[-1][1])
    stack.stop_server("valkey")
    try:
        change(device, "birth")
        run_until(notifier, lambda: status_changes(device)[-1][1])
    finally:
        stack.start_server("valkey")
        wait_for_redis()
    client = app(device.tenant)
    wait_until(lambda: publications(client, device), 60)
    assert publications(client, device)[0]["device_status"] == "ONLINE"


def test_a_flapping_device_is_damped_and_then_settled(
    register: Any, notifier: Any, app: Callable[..., RawClient], tenant_b: Any
) -> None:
    from devices.models import PresenceSettings

    with schema_context(tenant_b.schema_name):
        PresenceSettings(flapping_changes=3, flapping_window_seconds=1).save()
    try:
        device = register(tenant=tenant_b)
        client = app(tenant_b)
        for kind in ("birth", "will", "birth", "will", "birth", "will"):
            change(device, kind)
            run_until(notifier, lambda: status_changes(device)[-1][1])
        run_until(notifier, lambda: len(publications(client, device)) == 4)
    finally:
        with schema_context(tenant_b.schema_name):
            PresenceSettings.objects.all().delete()
    published = [(state["device_status"], state.get("flapping", False)) for state in publications(client, device)]
    assert published == [("ONLINE", False), ("OFFLINE", False), ("ONLINE", True), ("OFFLINE", False)]
    assert [quiet for _, _, quiet in status_changes(device)] == ["", "", "", "flapping", "flapping", "flapping"]


def test_the_end_of_a_maintenance_window_is_told(register: Any, notifier: Any, app: Callable[..., RawClient]) -> None:
    from devices.models import MaintenanceWindow

    device = register()
    client = app(device.tenant)
    change(device, "birth")
    run_until(notifier, lambda: publications(client, device))
    now = datetime.now(UTC)
    with schema_context(device.tenant.schema_name):
        MaintenanceWindow.objects.create(
            device=device.device, starts_at=now - timedelta(hours=1), ends_at=now + timedelta(seconds=1)
        )
    change(device, "will")
    run_until(notifier, lambda: status_changes(device)[-1][1])
    assert status_changes(device)[-1][2] == "maintenance"
    assert len(publications(client, device)) == 1
    run_until(notifier, lambda: len(publications(client, device)) == 2)
    assert publications(client, device)[-1]["device_status"] == "OFFLINE"


def test_an_app_asks_for_the_state_of_its_tenants_devices(
    register: Any, notifier: Any, app: Callable[..., RawClient], tenant_b: Any
) -> None:
    own, foreign, inactive = register(), register(tenant=tenant_b), register()
    client, other = app(own.tenant), app(tenant_b)
    with schema_context(own.tenant.schema_name):
        type(inactive.device).objects.filter(pk=inactive.device.pk).update(active=False)
    for device in (foreign, inactive, own):
        client.publish_acknowledged(f"client/request_state/{own.tenant.slug}/{device.uuid}", b"")
    client.publish_acknowledged(f"client/request_state/{own.tenant.slug}/{own.uuid}x", b"")
    (state,) = run_until(notifier, lambda: publications(client, own))
    assert (state["device_status"], state["last_seen_at"], state["units"]) == ("UNKNOWN", None, {})
    run_for(notifier, 0.3)
    assert publications(client, foreign) == publications(other, foreign) == publications(client, inactive) == []


def test_who_asks_often_is_answered_once_a_second(
    register: Any, notifier: Any, app: Callable[..., RawClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = register()
    client = app(device.tenant)
    # As if all of this took less than a second, however long it takes.
    with monkeypatch.context() as patch:
        patch.setattr(notifier_module, "_ANSWER_AGAIN_SECONDS", 600.0)
        for _ in range(20):
            client.publish_acknowledged(f"client/request_state/{device.tenant.slug}/{device.uuid}", b"now")
            notifier.run_once(0.01)
        run_until(notifier, lambda: publications(client, device))
        run_for(notifier, 0.3)
    assert len(publications(client, device)) == 1
    answered = f"gwanje:answered:{device.tenant.schema_name}:{device.uuid}"
    redis = get_redis_connection("default")
    redis.delete(answered)  # the time is over
    client.publish_acknowledged(f"client/request_state/{device.tenant.slug}/{device.uuid}", b"now")
    run_until(notifier, lambda: len(publications(client, device)) == 2)
    assert redis.pttl(answered) <= 1000


def test_what_was_asked_while_no_notifier_ran_is_answered(
    register: Any, notifier: Any, app: Callable[..., RawClient]
) -> None:
    device = register()
    client = app(device.tenant)
    notifier.close()
    client.publish_acknowledged(f"client/request_state/{device.tenant.slug}/{device.uuid}", b"")
    run_until(notifier, lambda: publications(client, device))


def test_what_the_broker_did_not_acknowledge_is_told_again(
    register: Any, notifier: Any, app: Callable[..., RawClient], stack: EmbeddedStack, monkeypatch: Any
) -> None:
    """A broker that stands still: the batch stays in the outbox, and the connection is given up with what is on it."""
    from devices.services.notifications import state_publisher

    monkeypatch.setattr(state_publisher, "_ACKNOWLEDGED_WITHIN", 0.5)
    device = register()
    client = app(device.tenant)
    stack.signal("mosquitto", signal.SIGSTOP)
    try:
        change(device, "birth")
        run_for(notifier, 1)
        assert status_changes(device) == [("ONLINE", None, "")]
        assert not notifier._broker.is_connected
    finally:
        stack.signal("mosquitto", signal.SIGCONT)
    run_until(notifier, lambda: status_changes(device)[0][1])
    states = [state["device_status"] for state in wait_until(lambda: publications(client, device))]
    assert set(states) == {"ONLINE"}
    run_until(notifier, lambda: not any(notifier._requested_states.values()))


def test_a_notifier_that_freezes_in_the_middle_loses_the_lock_and_its_work(
    register: Any, notifier: Any, app: Callable[..., RawClient], monkeypatch: Any
) -> None:
    from django.db import InterfaceError, InternalError, OperationalError

    from devices.services.notifications import outbox

    device = register()
    client = app(device.tenant)
    change(device, "birth")
    monkeypatch.setattr(outbox, "FROZEN_SECONDS", 1)
    # Depending on when psycopg notices it.
    with pytest.raises((OperationalError, InterfaceError, InternalError)):
        outbox.publish_changes(device.tenant.schema_name, lambda _: time.sleep(1.5))
    connection.close()
    assert status_changes(device) == [("ONLINE", None, "")]
    run_until(notifier, lambda: status_changes(device)[0][1])
    wait_until(lambda: publications(client, device))


def test_what_is_published_and_not_committed_is_told_again(
    register: Any, notifier: Any, app: Callable[..., RawClient], stack: EmbeddedStack, monkeypatch: Any
) -> None:
    from devices.services.notifications import status_feed

    device = register()
    client = app(device.tenant)
    change(device, "birth")
    give = status_feed.give_positions

    def give_after_the_end(changes: Any) -> None:
        monkeypatch.setattr(status_feed, "give_positions", give)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(status_feed, "give_positions", give_after_the_end)
    run_until(notifier, lambda: status_changes(device)[0][1] and not any(notifier._requested_states.values()))
    states = wait_until(lambda: len(publications(client, device)) == 2 and publications(client, device))
    assert [state["device_status"] for state in states] == ["ONLINE", "ONLINE"]
    assert positions_are_unique(device)
