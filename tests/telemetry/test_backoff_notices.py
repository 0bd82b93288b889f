"""Back-off notices to devices that exceed a limit: from the listener's limiter through the notifier to the device."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django_tenants.utils import schema_context

from devices.domain.specs import LimitSpec, RateSpec
from management.device_client.gwanje_device import GwanjeDevice, open_command
from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import Process, wait_until


@pytest.fixture
def notifier(live_db: None, start: Callable[..., Process]) -> Iterator[Process]:
    process = start("manage.py", "run_notifier", "--client-id", "notifier-of-hints")
    process.wait_for("Connected to the broker")
    yield process
    with RawClient.of_url("MQTT_URL", client_id="notifier-of-hints", clean=True):
        pass


def refuse(device: Registered, *, signature: int) -> None:
    """Have a listener's limiter refuse a message of the device."""
    from dataclasses import replace
    from datetime import UTC, datetime

    from devices.services.specs.loader import load_specs
    from telemetry.services.limits.limiter import Limiter
    from telemetry.services.pipeline.form import parse_topic
    from telemetry.services.pipeline.results import AcceptedItem, Incoming, ValidatedMessage
    from tests import payloads

    spec = load_specs([device.device.uuid])[device.device.uuid]
    limits = LimitSpec(device=RateSpec(0.5, 1))
    spec = replace(spec, tenant=replace(spec.tenant, limits=limits))
    now = datetime.now(UTC)
    topic = parse_topic(payloads.topic(device))
    message = ValidatedMessage(topic, "dht22", now, False, signature, int(device.kid), b"0" * 16)
    limiter = Limiter()
    assert len(limiter.admit([AcceptedItem(Incoming("t", b"", now), spec, message)] * 2)) == 1
    limiter.flush()


def heard_by(device: Registered, client: RawClient) -> bytes:
    topic = f"command/{device.tenant.slug}/{device.uuid}/request"
    return wait_until(lambda: next((payload for heard, payload in client.received if heard == topic), None))


def test_a_device_of_version_1_is_told_in_json(register: Any, notifier: Process) -> None:
    device = register()
    with RawClient(device.uuid, device.mqtt_password) as client:
        assert client.subscribe(f"command/{device.tenant.slug}/{device.uuid}/request")
        refuse(device, signature=1)
        command = json.loads(heard_by(device, client))
    assert (
        command.items()
        >= {
            "command": "back_off",
            "device_uuid": device.uuid,
            "limit": "device_rate",
            "value": 0.5,
        }.items()
    )
    assert 1 <= command["retry_after"] <= 60


def test_a_device_of_version_2_is_told_in_what_its_key_signs(register: Any, notifier: Process) -> None:
    device = register()
    with RawClient(device.uuid, device.mqtt_password) as client:
        assert client.subscribe(f"command/{device.tenant.slug}/{device.uuid}/request")
        refuse(device, signature=2)
        payload = heard_by(device, client)
    signed, _, mac = payload.rpartition(b".")
    digest = hmac.digest(device.secret.encode(), signed, hashlib.sha256)
    assert base64.urlsafe_b64encode(digest).rstrip(b"=") == mac
    header = json.loads(base64.urlsafe_b64decode(signed.split(b".")[0] + b"=="))
    assert header == {"alg": "HS256", "kid": device.kid, "typ": "command+jws"}
    assert open_command(payload, device.secret)["command"] == "back_off"
    with pytest.raises(ValueError, match="does not match"):
        open_command(payload, "another secret")


def test_a_command_is_no_telemetry_and_telemetry_no_command(register: Any) -> None:
    from tests import payloads

    device = register()
    with pytest.raises(ValueError, match="not a command"):
        open_command(payloads.v2(device, {"temp": 1}, seq=1), device.secret)


def test_nobody_is_told_of_another_tenants_device(register: Any, tenant_a: Any, tenant_b: Any) -> None:
    from telemetry.services.limits.backoff_notices import BackoffNotice
    from telemetry.services.notifier.backoff_commands import BackoffCommands

    device = register(tenant=tenant_b)
    hint = BackoffNotice(tenant_a.schema_name, device.device.pk, device.uuid, "device_rate", 1, 1, 1, 1)
    maker = BackoffCommands()
    assert maker.messages([hint]) == []
    with schema_context(tenant_b.schema_name):
        type(device.device).objects.filter(pk=device.device.pk).update(active=False)
    assert (
        maker.messages([BackoffNotice(tenant_b.schema_name, *[getattr(hint, n) for n in list(hint.__slots__)[1:]])])
        == []
    )


def test_the_device_holds_its_messages_back(register: Any, notifier: Process) -> None:
    device = register()
    client = GwanjeDevice(
        uuid=device.uuid,
        secret=device.secret,
        kid=device.kid,
        host="127.0.0.1",
        port=_port(),
        tenant=device.tenant.slug,
        mqtt_password=device.mqtt_password,
    )
    with client:
        wait_until(lambda: client.connected)
        time.sleep(0.2)  # the subscription
        refuse(device, signature=2)
        wait_until(lambda: client._held_until > time.monotonic())
        client.send("dht22", {"value": {"temp": 20.0}})
        assert not client.flush(0.3)
        client.hold(0)
        assert client.flush(10)


def _port() -> int:
    import os

    return int(os.environ["MQTT_PORT"])
