"""The rights of an app with an API key at the broker: a raw client tries everything, on Mosquitto."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import wait_until


@dataclass
class App:
    """An issued API key."""

    tenant: Any
    key: Any
    text: str

    @property
    def name(self) -> str:
        return str(self.key.prefix)

    def connect(self, **kwargs: Any) -> RawClient:
        return RawClient(self.name, self.text, **kwargs)


def is_refused(name: str, password: str, client_id: str = "") -> bool:
    """Whether the broker refuses the connection; asked by hand, since a client would try again and again."""

    def text(value: str) -> bytes:
        return len(value).to_bytes(2) + value.encode()

    body = text("MQTT") + b"\x04\xc2\x00\x1e" + text(client_id or name) + text(name) + text(password)
    length = bytes([len(body) % 128 + 128, len(body) // 128])
    with socket.create_connection(("127.0.0.1", int(os.environ["MQTT_PORT"])), timeout=60) as connection:
        connection.sendall(b"\x10" + length + body)
        answer = connection.recv(4)
    assert answer[:2] == b"\x20\x02", answer
    return answer[3] != 0


@pytest.fixture
def issue(live_db: None, tenant_a: Any) -> Callable[..., App]:
    """`issue(tenant=…, scope=…)`: an API key, for real."""
    from devices.services.api_keys import issue_api_key

    def make(tenant: Any = None, **options: Any) -> App:
        tenant = tenant or tenant_a
        with schema_context(tenant.schema_name):
            key, text = issue_api_key(name="an app", **options)
        return App(tenant, key, text)

    return make


@pytest.fixture
def own(register: Any) -> Registered:
    return register()


@pytest.fixture
def foreign(register: Any, tenant_b: Any) -> Registered:
    return register(tenant=tenant_b)


def state_topic(device: Registered) -> str:
    return f"client/state/{device.tenant.slug}/{device.uuid}"


SUBSCRIPTIONS = {
    "client/state/alpha/{own}": True,
    "client/state/alpha/+": True,
    "client/state/alpha/#": True,
    "client/state/beta-farm/{foreign}": False,
    "client/state/beta-farm/#": False,
    "client/state/+/{foreign}": False,
    "client/state/+/+": False,
    "client/state/#": False,
    "client/+/alpha/+": False,
    "client/#": False,
    "client/request_state/alpha/+": False,
    "#": False,
    "+/#": False,
    "+/+/+/+": False,
    "telemetry/#": False,
    "telemetry/alpha/{own}/dht22": False,
    "telemetry/+/{name}/#": False,
    "device/birth/{own}": False,
    "device/#": False,
    "command/alpha/{own}/request": False,
    "command/+/{name}/request": False,
    "command/#": False,
    "$share/x/client/state/alpha/#": False,
    "$share/x/client/state/beta-farm/#": False,
    "$share/ingest/telemetry/#": False,
    "$share/x/#": False,
    "$SYS/#": False,
    "$SYS/broker/uptime": False,
    "$CONTROL/#": False,
    "$CONTROL/dynamic-security/v1/response": False,
}


def test_an_app_subscribes_to_its_tenants_states_only(
    issue: Callable[..., App], own: Registered, foreign: Registered
) -> None:
    app = issue(scope="write")
    with app.connect() as client:
        granted = {
            pattern: client.subscribe(pattern.format(own=own.uuid, foreign=foreign.uuid, name=app.name))
            for pattern in SUBSCRIPTIONS
        }
    assert granted == SUBSCRIPTIONS


def test_an_app_is_delivered_its_tenants_states_only(
    issue: Callable[..., App], own: Registered, foreign: Registered
) -> None:
    mark = os.urandom(4)
    with RawClient.of_url("MQTT_URL") as platform, issue().connect() as client:
        platform.publish_acknowledged(state_topic(own), mark + b"retained", retain=True)
        platform.publish_acknowledged(state_topic(foreign), mark + b"retained", retain=True)
        for pattern in ("client/state/alpha/#", "client/state/beta-farm/#", "client/state/#", "#"):
            client.subscribe(pattern)
        platform.publish_acknowledged(state_topic(foreign), mark)
        platform.publish_acknowledged(f"command/alpha/{own.uuid}/request", mark)
        platform.publish_acknowledged(state_topic(own), mark)
        wait_until(lambda: (state_topic(own), mark) in client.received)
        ours = [(topic, payload) for topic, payload in client.settle() if payload.startswith(mark)]
        assert ours == [(state_topic(own), mark + b"retained"), (state_topic(own), mark)]
        for device in (own, foreign):
            platform.publish_acknowledged(state_topic(device), b"", retain=True)


@pytest.mark.parametrize("retain", [False, True], ids=["publish", "retained"])
def test_an_app_publishes_requests_of_its_tenant_only(
    issue: Callable[..., App], own: Registered, foreign: Registered, retain: bool
) -> None:
    app, mark = issue(scope="write"), os.urandom(4)
    elsewhere = [
        f"client/request_state/beta-farm/{foreign.uuid}",
        f"client/request_state/alpha/{own.uuid}/more",
        "client/request_state/alpha",
        f"telemetry/alpha/{own.uuid}/dht22",
        f"telemetry/alpha/{app.name}/dht22",
        f"device/birth/{own.uuid}",
        f"device/birth/{app.name}",
        f"device/lwt/{own.uuid}",
        f"device/lwt/{app.name}",
        f"device/lwt/status/{app.name}",
        f"command/alpha/{own.uuid}/response",
        f"command/alpha/{app.name}/response",
    ]
    request = f"client/request_state/alpha/{own.uuid}"
    with RawClient.of_url("MQTT_URL") as platform, app.connect() as client:
        for pattern in ("telemetry/#", "device/#", "command/+/+/response", "client/request_state/#"):
            assert platform.subscribe(pattern)
        for topic in elsewhere:
            client.publish_acknowledged(topic, mark, retain=retain)
        client.publish_acknowledged(request, mark, retain=retain)
        wait_until(lambda: (request, mark) in platform.received)
        assert [topic for topic, payload in platform.settle() if payload == mark] == [request]
        if retain:
            client.publish_acknowledged(request, b"", retain=True)


def test_an_apps_state_cannot_be_made_up(issue: Callable[..., App], own: Registered) -> None:
    mark = os.urandom(4)
    with issue().connect() as liar, issue().connect() as client:
        assert client.subscribe("client/state/alpha/#")
        liar.publish_acknowledged(state_topic(own), mark, retain=True)
        assert [payload for _, payload in client.settle() if payload == mark] == []


def test_an_app_takes_over_nobodys_session(issue: Callable[..., App], own: Registered) -> None:
    """Under the client id of the listener it would take the messages that wait there; under a device's its commands."""
    app = issue()
    with RawClient.of_url("MQTT_URL", client_id="gwanje-listener-x", clean=False) as listener:
        for client_id in ("gwanje-listener-x", own.uuid, "anything"):
            assert is_refused(app.name, app.text, client_id)
        assert listener.client.is_connected()
    with RawClient.of_url("MQTT_URL", client_id="gwanje-listener-x", clean=True):
        pass


def test_who_has_no_key_is_refused(issue: Callable[..., App], tenant_b: Any) -> None:
    app, other = issue(), issue(tenant_b)
    for name, password in ((app.name, "wrong"), (app.name, other.text), (app.text, app.text), ("gwj_0", app.text)):
        assert is_refused(name, password)
    assert not is_refused(app.name, app.text)


def test_a_revoked_keys_live_session_is_closed(issue: Callable[..., App]) -> None:
    from devices.services.api_keys import revoke_api_key

    app, other = issue(), issue()
    with app.connect() as client, other.connect() as neighbour:
        with schema_context(app.tenant.schema_name):
            revoke_api_key(app.key)
        wait_until(lambda: client.refusal, 60)
        assert neighbour.client.is_connected()
    assert is_refused(app.name, app.text)


def test_a_key_that_was_not_issued_after_all_has_no_account(live_db: None, tenant_a: Any) -> None:
    from django.db import transaction

    from devices.services.api_keys import issue_api_key
    from devices.services.broker import accounts

    with schema_context(tenant_a.schema_name), transaction.atomic():
        key, _ = issue_api_key(name="rolled back")
        transaction.set_rollback(True)
    assert key.prefix not in accounts.accounts()


def test_accounts_of_keys_are_brought_in_step(issue: Callable[..., App]) -> None:
    """Revoked while the broker was unavailable, expired, gone: closed. The others stay connected."""
    from devices.models import ApiKey
    from devices.services.broker import accounts
    from devices.services.broker.synchronization import sync_broker

    sync_broker()
    revoked, expired, gone, valid = (issue() for _ in range(4))
    with schema_context(valid.tenant.schema_name):
        rows = ApiKey.objects.all()
        rows.filter(pk=revoked.key.pk).update(revoked_at=timezone.now())
        rows.filter(pk=expired.key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
        rows.filter(pk=gone.key.pk).delete()
    with expired.connect() as client, valid.connect() as neighbour:
        assert sync_broker().apps == 3
        wait_until(lambda: client.refusal, 60)
        assert neighbour.client.is_connected()
        assert sync_broker().apps == 0
        assert neighbour.client.is_connected()
    known = accounts.accounts()
    assert [app.name in known for app in (revoked, expired, gone, valid)] == [False, False, False, True]


def test_a_suspended_tenants_apps_wait_outside_until_it_is_resumed(issue: Callable[..., App], tenant_b: Any) -> None:
    from devices.services.broker.synchronization import sync_broker
    from tenants.services.lifecycle import resume_tenant, suspend_tenant

    app = issue(tenant_b)
    suspend_tenant(tenant_b, reason="test")
    try:
        with app.connect() as client:
            sync_broker()
            wait_until(lambda: client.refusal, 60)
    finally:
        resume_tenant(tenant_b)
    sync_broker()
    assert not is_refused(app.name, app.text)


def test_the_broker_away_costs_a_key_its_account_and_nothing_else(
    issue: Callable[..., App], stack: Any, tenant_a: Any
) -> None:
    from devices.models import ApiKey
    from devices.services.api_keys import revoke_api_key
    from devices.services.broker.synchronization import sync_broker

    before = issue()
    stack.stop_server("mosquitto")
    try:
        app = issue()
        with schema_context(tenant_a.schema_name):
            assert ApiKey.find(app.text) == app.key
            assert revoke_api_key(before.key)
    finally:
        stack.start_server("mosquitto")
    sync_broker()
    assert is_refused(before.name, before.text)
    assert is_refused(app.name, app.text)


def test_no_key_is_in_the_brokers_file(issue: Callable[..., App], stack: Any) -> None:
    app = issue()
    text = (stack.var / "mosquitto" / "dynamic-security.json").read_text()
    assert app.name in text
    assert app.text not in text
