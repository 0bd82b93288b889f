"""The rights of devices at the broker: a raw client tries everything, on Mosquitto."""

import json
import os
import uuid
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import wait_until


@pytest.fixture
def mark() -> bytes:
    """What this test's payloads begin with: a broker remembers retained messages of the tests before."""
    return os.urandom(4).hex().encode() + b"-"


@pytest.fixture
def devices(register: Any, tenant_b: Any) -> dict[str, Registered]:
    return {"own": register(), "other": register(), "foreign": register(tenant=tenant_b)}


def connect(device: Registered, **kwargs: Any) -> RawClient:
    return RawClient(device.uuid, device.mqtt_password, **kwargs)


def published_topics(device: Registered) -> list[str]:
    slug = device.tenant.slug
    return [
        f"telemetry/{slug}/{device.uuid}/dht22",
        f"device/birth/{device.uuid}",
        f"device/lwt/{device.uuid}",
        f"device/lwt/status/{device.uuid}",
        f"command/{slug}/{device.uuid}/response",
    ]


ELSEWHERE = ["telemetry/alpha", "client/state/alpha/x", "$CONTROL/dynamic-security/v1", "$SYS/broker/x", "anything"]


@pytest.mark.parametrize("retain", [False, True], ids=["publish", "retained"])
def test_a_device_publishes_on_its_own_topics_only(devices: dict[str, Registered], mark: bytes, retain: bool) -> None:
    with RawClient.of_url("MQTT_URL") as platform, connect(devices["own"]) as device:
        for pattern in ("telemetry/#", "device/#", "command/+/+/response"):
            assert platform.subscribe(pattern)
        for name in ("other", "foreign"):
            for topic in published_topics(devices[name]):
                device.publish_acknowledged(topic, mark + name.encode(), retain=retain)
        for topic in ELSEWHERE:
            device.publish_acknowledged(topic, mark, retain=retain)
        for topic in published_topics(devices["own"]):
            device.publish_acknowledged(topic, mark + b"own", retain=retain)
        mine = wait_until(lambda: len([1 for _, p in platform.received if p == mark + b"own"]) == 5)
        assert mine
        assert [(t, p) for t, p in platform.settle() if p.startswith(mark) and p != mark + b"own"] == []
    if retain:
        with RawClient.of_url("MQTT_URL") as late:
            assert late.subscribe("telemetry/#")
            topics = {topic for topic, payload in late.settle() if payload.startswith(mark)}
            assert not any(devices[name].uuid in topic for topic in topics for name in ("other", "foreign"))


@pytest.mark.parametrize("retain", [False, True], ids=["will", "retained will"])
@pytest.mark.parametrize("whose", ["own", "other", "foreign"])
def test_a_will_is_published_on_the_devices_own_topic_only(
    devices: dict[str, Registered], mark: bytes, whose: str, retain: bool
) -> None:
    topic = f"device/lwt/{devices[whose].uuid}"
    with RawClient.of_url("MQTT_URL") as platform:
        assert platform.subscribe("device/lwt/+")
        dying = connect(devices["own"], will=(topic, mark + whose.encode(), retain))
        dying.__enter__()
        dying.drop()
        if whose == "own":
            wait_until(lambda: (topic, mark + b"own") in platform.received, 60)
        else:
            assert [t for t, p in platform.settle(0.5) if p.startswith(mark)] == []


def test_a_device_is_delivered_its_own_commands_only(devices: dict[str, Registered], mark: bytes) -> None:
    own = devices["own"]
    request = f"command/{own.tenant.slug}/{own.uuid}/request"
    with RawClient.of_url("MQTT_URL") as platform, connect(own) as device:
        assert device.subscribe(request)
        for name in ("other", "foreign"):
            # Granted or not, nothing may be delivered through it.
            device.subscribe(f"command/{devices[name].tenant.slug}/{devices[name].uuid}/request")
        device.subscribe("command/+/+/request")
        for victim in devices.values():
            target = f"command/{victim.tenant.slug}/{victim.uuid}/request"
            platform.publish_acknowledged(target, mark, retain=False)
        wait_until(lambda: device.received, 60)
        assert {topic for topic, _ in device.settle()} == {request}


PATTERNS = [
    "#",
    "+/#",
    "telemetry/#",
    "telemetry/+/{own}/#",
    "telemetry/+/{other}/dht22",
    "device/#",
    "device/lwt/{other}",
    "command/#",
    "command/+/{other}/response",
    "client/state/#",
    "client/state/alpha/{own}",
    "$SYS/#",
    "$CONTROL/dynamic-security/v1/response",
    "$share/ingest/telemetry/#",
    "$share/ingest/device/lwt/#",
    "$share/x/#",
    "$share/x/command/#",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_subscriptions_that_reach_further_are_refused(devices: dict[str, Registered], pattern: str) -> None:
    with connect(devices["own"]) as device:
        named = pattern.format(own=devices["own"].uuid, other=devices["other"].uuid)
        assert not device.subscribe(named), f"{named} was granted"


def test_a_shared_subscription_of_a_device_takes_nothing_away(devices: dict[str, Registered], mark: bytes) -> None:
    """A broker that grants it and then delivers nothing would lose every second message of the group."""
    own, other = devices["own"], devices["other"]
    with RawClient.of_url("MQTT_URL") as platform, connect(own) as thief, connect(other) as sender:
        assert platform.subscribe("$share/ingest/telemetry/#")
        assert not thief.subscribe("$share/ingest/telemetry/#")
        for number in range(20):
            sender.publish_acknowledged(published_topics(other)[0], mark + str(number).encode())
        assert len([1 for _, payload in platform.settle() if payload.startswith(mark)]) == 20


@pytest.mark.parametrize(
    "make",
    [
        lambda d: RawClient("", "", client_id="anonymous"),
        lambda d: RawClient(d["own"].uuid, "wrong"),
        lambda d: RawClient(d["own"].uuid, d["other"].mqtt_password),
        lambda d: RawClient(d["own"].uuid, d["own"].mqtt_password, client_id=d["other"].uuid),
        lambda d: RawClient(d["own"].uuid, d["own"].mqtt_password, client_id=str(uuid.uuid4())),
        lambda d: RawClient(str(uuid.uuid4()), "x"),
    ],
    ids=["anonymous", "wrong password", "another's password", "another's client id", "some client id", "unknown"],
)
def test_who_is_not_the_device_is_refused_and_disturbs_nobody(
    devices: dict[str, Registered], mark: bytes, make: Any
) -> None:
    with connect(devices["own"]) as own, connect(devices["other"]) as other:
        with make(devices) as intruder:
            assert intruder.refusal is not None
        for client, name in ((own, "own"), (other, "other")):
            client.publish_acknowledged(published_topics(devices[name])[0], mark)
            assert client.client.is_connected()


@pytest.mark.parametrize(("asked", "given"), [(3600, 120), (0, 120), (30, None)])
def test_a_keep_alive_that_would_hide_a_loss_is_shortened(
    devices: dict[str, Registered], asked: int, given: int | None
) -> None:
    """Over MQTT 5, where the broker has a say in it; a 3.1.1 device's silence is left to its timeout."""
    own = devices["own"]
    answered: list[Any] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=own.uuid, protocol=mqtt.MQTTv5)
    client.username_pw_set(own.uuid, own.mqtt_password)
    client.on_connect = lambda _c, _u, _f, reason, properties: answered.append((reason.is_failure, properties))
    client.connect("127.0.0.1", int(os.environ["MQTT_PORT"]), keepalive=asked)
    client.loop_start()
    try:
        failed, properties = wait_until(lambda: answered, 60)[0]
    finally:
        client.disconnect()
        client.loop_stop()
    assert not failed
    assert getattr(properties, "ServerKeepAlive", None) == given


def test_a_removed_devices_session_is_closed(register: Any) -> None:
    from django_tenants.utils import schema_context

    from devices.services.provisioning.registration import remove_device

    device = register()
    with connect(device) as client:
        with schema_context(device.tenant.schema_name):
            remove_device(device.device)
        wait_until(lambda: not client.client.is_connected() or client.refusal, 60)
        wait_until(lambda: client.refusal, 60)


def is_kept(topic: str) -> bool:
    """Whether the broker would show the next app a state."""
    with RawClient.of_url("MQTT_URL") as late:
        assert late.subscribe(topic)
        return any(found == topic for found, _ in late.settle())


def publish_state(device: Registered) -> str:
    topic = f"client/state/{device.tenant.slug}/{device.uuid}"
    with RawClient.of_url("MQTT_URL") as platform:
        platform.publish_acknowledged(topic, b'{"device_status": "ONLINE"}', retain=True)
    return topic


def test_a_removed_devices_state_is_removed_and_its_neighbours_stays(register: Any) -> None:
    from django_tenants.utils import schema_context

    from devices.services.provisioning.registration import remove_device

    device, neighbour = register(), register()
    topic, other = publish_state(device), publish_state(neighbour)
    with schema_context(device.tenant.schema_name):
        remove_device(device.device)
    assert not is_kept(topic)
    assert is_kept(other)


def test_a_state_that_was_left_behind_is_removed_when_asked_for(register: Any, tenant_b: Any) -> None:
    """The broker was unavailable when the device was removed; or the device moved to another tenant."""
    from devices.services.broker.synchronization import sync_broker

    device = register()
    topic = publish_state(device)
    strangers = [f"client/state/{slug}/{name}" for slug in ("alpha", "nobody") for name in (uuid.uuid4(), device.uuid)]
    strangers.remove(topic)
    with RawClient.of_url("MQTT_URL") as platform:
        for stranger in strangers:
            platform.publish_acknowledged(stranger, b"{}", retain=True)
    assert sync_broker(states=True).states >= len(strangers)
    assert is_kept(topic)
    assert not any(is_kept(stranger) for stranger in strangers)


def test_a_device_that_is_switched_off_is_thrown_out_until_it_is_on_again(register: Any) -> None:
    from django_tenants.utils import schema_context

    from devices.services.provisioning.activation import set_active

    device, neighbour = register(), register()
    with connect(device) as client, connect(neighbour) as other, schema_context(device.tenant.schema_name):
        set_active(device.device, False)
        wait_until(lambda: client.refusal, 60)
        set_active(device.device, True)
        wait_until(lambda: client.refusal is None and client.client.is_connected(), 60)
        assert other.client.is_connected()


def test_a_session_is_closed_and_the_device_comes_back(register: Any) -> None:
    from devices.services.broker import accounts

    device = register()
    connections: list[Any] = []
    with connect(device) as client:
        client.client.on_connect = lambda _c, _u, _f, reason, _p: connections.append(reason.is_failure)
        accounts.disconnect([device.device.uuid])
        wait_until(lambda: connections, 60)
    assert connections[-1] is False


def test_devices_are_let_in_and_kept_out_as_they_are_registered(register: Any, tenant_b: Any) -> None:
    """Switched off, or suspended, while the broker was unavailable."""
    from django_tenants.utils import schema_context

    from devices.models import Device
    from devices.services.broker import accounts
    from devices.services.broker.synchronization import sync_broker
    from tenants.services.lifecycle import resume_tenant, suspend_tenant

    sync_broker()
    off, on, suspended = register(), register(), register(tenant=tenant_b)
    with schema_context(off.tenant.schema_name):
        Device.objects.filter(uuid=off.uuid).update(active=False)
    accounts.allow_devices([on.device.uuid], False)
    suspend_tenant(tenant_b, reason="test")
    try:
        assert sync_broker().switched >= 3
        allowed = accounts.accounts()
        assert [allowed[device.uuid] for device in (off, on, suspended)] == [False, True, False]
        assert sync_broker().switched == 0
    finally:
        resume_tenant(tenant_b)
    sync_broker()
    with connect(suspended) as client:
        assert client.refusal is None


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The administrator's connections that are opened."""
    from devices.services.broker import mosquitto_control

    opened: list[Any] = []
    enter = mosquitto_control._Session.__enter__

    def count(session: Any) -> Any:
        opened.append(session)
        return enter(session)

    monkeypatch.setattr(mosquitto_control._Session, "__enter__", count)
    return opened


def test_devices_that_are_registered_together_get_their_accounts_over_one_connection(
    register: Any, enter: Any, opened: list[Any]
) -> None:
    """Those whose registration came to nothing, or that are removed again, get none."""
    from django.db import transaction

    from devices.services.broker import accounts
    from devices.services.provisioning.registration import remove_device

    with accounts.batch_grants():
        registered = [register() for _ in range(3)]
        with transaction.atomic(), accounts.batch_grants():
            registered += [register() for _ in range(2)]
        with transaction.atomic():
            undone = register()
            transaction.set_rollback(True)
        assert opened == []
        removed = register()
        with enter(removed.tenant):
            remove_device(removed.device)
        opened.clear()
    assert len(opened) == 1
    present = accounts.accounts()
    assert all(device.uuid in present for device in registered)
    assert not {undone.uuid, removed.uuid} & present.keys()
    with connect(registered[-1]) as client:
        assert client.refusal is None


def test_many_accounts_are_made_over_one_connection(live_db: None, opened: list[Any]) -> None:
    from devices.services.broker import accounts

    many = [(uuid.uuid4(), f"password {number}") for number in range(60)]
    accounts.grant_devices(many)
    assert len(opened) == 1
    assert {str(name) for name, _ in many} <= {name for name, allowed in accounts.accounts().items() if allowed}
    with RawClient(str(many[-1][0]), many[-1][1]) as client:
        assert client.refusal is None
        accounts.grant_devices(many, renew=False)
        assert client.client.is_connected()
    accounts.revoke_devices(name for name, _ in many)
    assert not {str(name) for name, _ in many} & accounts.accounts().keys()


@pytest.mark.parametrize(("seconds_each", "largest"), [(0.001, 100), (0.045, 5), (0.3, 2)])
def test_a_batch_is_as_large_as_the_broker_may_stand_still(seconds_each: float, largest: int) -> None:
    from devices.services.broker.mosquitto_control import _batches

    clock, sizes = [0.0], []
    for batch in _batches([{"command": str(number)} for number in range(500)], lambda: clock[0]):
        sizes.append(len(batch))
        clock[0] += seconds_each * len(batch)
    assert sum(sizes) == 500
    assert max(sizes) == largest
    assert all(size * seconds_each <= 0.25 or size == 1 for size in sizes[1:])


def test_accounts_are_brought_in_step(register: Any) -> None:
    from devices.services.broker import accounts
    from devices.services.broker.synchronization import sync_broker

    device = register()
    stranger = uuid.uuid4()
    accounts.revoke_devices([device.device.uuid])
    accounts.grant_devices([(stranger, "password")])
    changes = sync_broker()
    assert (changes.granted, changes.revoked, changes.without_secret) == (1, 1, 0)
    assert device.uuid in accounts.accounts()
    assert str(stranger) not in accounts.accounts()
    with connect(device) as client:
        assert client.refusal is None


def test_no_password_of_a_device_is_in_the_brokers_file(register: Any) -> None:
    device = register()
    text = (servers_var() / "mosquitto" / "dynamic-security.json").read_text()
    accounts = {row["username"]: row for row in json.loads(text)["clients"]}
    assert accounts[device.uuid]["clientid"] == device.uuid
    assert device.mqtt_password not in text


def servers_var() -> Any:
    from pathlib import Path

    return Path(os.environ["GWANJE_VAR"])
