"""Messages of gateways for their children: stored as the child's, refused for any other device."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django_tenants.utils import schema_context

from tests.factories import Registered
from tests.payloads import topic, v1, v2
from tests.processes import wait_until

GOOD = {"temp": 21.5, "humidity": 44}
GATEWAY, CHILD = "7e2a1b3c-8b8f-4cde-8e4b-123456789abc", "6d1f0f2e-7a7e-4bcd-9d3a-0123456789ab"
Send = Callable[..., Any]


def child_topic(gateway: Registered, child: Registered | str, component: str = "dht22") -> str:
    uuid = child if isinstance(child, str) else child.uuid
    return f"telemetry/{gateway.tenant.slug}/{gateway.uuid}/{uuid}/{component}"


def signed(by: Registered, child: Registered, value: Any = GOOD, *, seq: int = 1, **members: Any) -> bytes:
    """A message for the child, signed with the key of the gateway `by`."""
    members = {"gateway": by.uuid, "cpu_serial": ..., "secret": by.secret, "kid": by.kid, **members}
    return v2(child, value, **{"seq": seq, **members})


def stored(device: Registered) -> list[tuple[str, Any]]:
    from telemetry.models import Reading

    with schema_context(device.tenant.schema_name):
        rows = Reading.objects.filter(series__device=device.device).order_by("series__metric", "time")
        return list(rows.values_list("series__metric", "value"))


def refusals(tenant: Any, text: str) -> list[tuple[str, Any]]:
    """(reason, device id) in the tenant's quarantine of messages with `text` in the topic."""
    from telemetry.models import Quarantined

    with schema_context(tenant.schema_name):
        return list(Quarantined.objects.filter(topic__contains=text).values_list("reason", "device_id"))


def status(device: Registered) -> str:
    from devices.models import DeviceStatus

    with schema_context(device.tenant.schema_name):
        return str(DeviceStatus.objects.get(device=device.device).status)


@pytest.fixture
def gateway(register: Any) -> Registered:
    return register(components={})


@pytest.fixture
def child(register: Any, gateway: Registered) -> Registered:
    return register(gateway=gateway.device, cpu_serial="")


def test_a_gateways_message_is_stored_as_its_childs(send: Send, gateway: Registered, child: Registered) -> None:
    message = child_topic(gateway, child), signed(gateway, child)
    result = send(message, message)
    assert (result.stored, result.duplicates, result.quarantined) == (1, 1, 0)
    assert stored(child) == [("humidity", 44.0), ("temperature", 21.5)]
    assert stored(gateway) == []
    assert (status(child), status(gateway)) == ("ONLINE", "ONLINE"), "it is activity of both"


def test_the_use_of_a_gateways_key_is_the_gateways(ingest: Any, send: Send, gateway: Registered, child: Any) -> None:
    from devices.models import DeviceCredential

    send((child_topic(gateway, child), signed(gateway, child)))
    ingest.preparer.flush()
    with schema_context(gateway.tenant.schema_name):
        used = {
            device: at is not None
            for device, at in DeviceCredential.objects.filter(device__in=[gateway.device, child.device]).values_list(
                "device_id", "in_use_since"
            )
        }
    assert used == {gateway.device.pk: True, child.device.pk: False}


def test_a_child_may_speak_for_itself_too(send: Send, gateway: Registered, child: Registered) -> None:
    result = send(
        (topic(child), v2(child, {"temp": 1}, seq=1, cpu_serial=...)),
        (child_topic(gateway, child), signed(gateway, child, {"temp": 2}, seq=2)),
    )
    assert (result.stored, result.quarantined) == (2, 0)
    assert status(child) == "ONLINE"


def test_a_number_of_a_child_is_used_once(send: Send, gateway: Registered, child: Registered) -> None:
    send((child_topic(gateway, child), signed(gateway, child, {"temp": 1}, seq=5)))
    result = send((child_topic(gateway, child), signed(gateway, child, {"temp": 2}, seq=5)))
    assert (result.stored, result.quarantined) == (0, 1)
    assert refusals(gateway.tenant, child.uuid) == [("replayed", child.device.pk)]


def test_a_fault_of_a_childs_message_is_in_the_childs_quarantine(
    send: Send, gateway: Registered, child: Registered
) -> None:
    send(
        (child_topic(gateway, child), signed(gateway, child, {"temp": 999})),
        (child_topic(gateway, child, "toaster"), signed(gateway, child, component="toaster", seq=2)),
    )
    assert sorted(refusals(gateway.tenant, child.uuid)) == [
        ("out_of_range", child.device.pk), ("unknown_component", child.device.pk),
    ]  # fmt: skip


def test_a_device_that_becomes_a_child_is_known_soon(send: Send, register: Any, gateway: Registered) -> None:
    later = register(cpu_serial="")
    result = send((child_topic(gateway, later), signed(gateway, later)))
    assert (result.stored, result.quarantined) == (0, 1)
    with schema_context(later.tenant.schema_name):
        later.device.gateway = gateway.device
        later.device.save(update_fields=["gateway"])
    message = child_topic(gateway, later), signed(gateway, later, seq=2)
    wait_until(lambda: send(message).stored == 1, 60, "the device is a child")


@pytest.mark.parametrize(
    ("levels", "publisher", "child", "component"),
    [
        ((GATEWAY, CHILD, "dht22"), GATEWAY, CHILD, "dht22"),
        ((GATEWAY, CHILD.upper(), "dht22"), GATEWAY, CHILD, "dht22"),
        ((GATEWAY, CHILD, "status"), GATEWAY, CHILD, "status"),
        ((GATEWAY, "dht22", "status"), GATEWAY, "", "dht22"),
        ((GATEWAY, CHILD), GATEWAY, "", CHILD),
    ],
)
def test_a_gateways_topic_names_both(levels: Sequence[str], publisher: str, child: str, component: str) -> None:
    from telemetry.services.pipeline import form

    text = "/".join(("telemetry", "demo", *levels))
    topic = form.parse_topic(text)
    assert (str(topic.uuid), str(topic.child or ""), topic.component) == (publisher, child, component)
    assert topic.device == (child or publisher)
    assert form.publisher_of(text) == topic.uuid, "the broker binds the topic to the gateway"


@pytest.mark.parametrize(
    "rest", [f"{CHILD}/", f"{CHILD}/dht22/status", f"{CHILD}/dht22/x", f"{{{CHILD}}}/dht22", "x/dht22"]
)
def test_other_topics_below_a_gateway_are_malformed(rest: str) -> None:
    from telemetry.services.pipeline import form
    from telemetry.services.pipeline.results import Refusal

    with pytest.raises(Refusal, match="malformed"):
        form.parse_topic(f"telemetry/demo/{GATEWAY}/{rest}")


# --- attacks


@pytest.mark.parametrize(
    ("reason", "members"),
    [
        ("bad_signature", {"secret": "another"}),
        ("bad_signature", {"kid": "9"}),
        ("bad_signature", {"gateway": ...}),
        ("bad_signature", {"gateway": str(uuid4())}),
        ("bad_signature", {"gateway": 7}),
        ("bad_signature", {"device_uuid": str(uuid4())}),
        ("bad_signature", {"device_uuid": ...}),
        ("bad_signature", {"component": "dht22-2"}),
        ("malformed", {"seq": -1}),
    ],
)
def test_a_message_is_bound_to_gateway_and_child(
    send: Send, gateway: Registered, child: Registered, reason: str, members: dict[str, Any]
) -> None:
    send((child_topic(gateway, child), signed(gateway, child, **members)))
    assert refusals(gateway.tenant, child.uuid) == [(reason, child.device.pk)]
    assert (stored(child), status(child), status(gateway)) == ([], "UNKNOWN", "UNKNOWN")


def test_neither_key_signs_in_the_others_place(send: Send, gateway: Registered, child: Registered) -> None:
    own = v2(child, GOOD, seq=1, cpu_serial=..., gateway=gateway.uuid)
    result = send(
        (child_topic(gateway, child), own),
        (topic(child), signed(gateway, child, seq=2)),
        (topic(gateway), signed(gateway, child, seq=3)),
        (child_topic(gateway, child), v1(gateway, GOOD, gateway=gateway.uuid, device_uuid=child.uuid)),
        (child_topic(child, gateway), signed(gateway, child, seq=4)),
    )
    assert (result.stored, result.quarantined) == (0, 5)
    assert (stored(child), status(child), status(gateway)) == ([], "UNKNOWN", "UNKNOWN")


@pytest.mark.parametrize("victim", ["of another gateway", "without a gateway", "of another tenant", "unregistered"])
def test_a_gateway_speaks_for_its_own_children_only(
    send: Send, register: Any, gateway: Registered, tenant_b: Any, victim: str
) -> None:
    if victim == "of another gateway":
        other = register(gateway=register(components={}).device, cpu_serial="")
    elif victim == "of another tenant":
        other = register(tenant=tenant_b, gateway=register(tenant=tenant_b).device, cpu_serial="")
    else:
        other = register(cpu_serial="")
    uuid = str(uuid4()) if victim == "unregistered" else other.uuid
    result = send((child_topic(gateway, uuid), signed(gateway, other, device_uuid=uuid)))
    assert (result.stored, result.quarantined, result.unrouted) == (0, 1, 0)
    assert refusals(gateway.tenant, uuid) == [("unknown_child", gateway.device.pk)]
    assert refusals(tenant_b, uuid) == [], "the other tenant does not see it"
    assert (stored(other), status(other)) == ([], "UNKNOWN")
    assert status(gateway) == "UNKNOWN"


def test_a_registration_in_another_tenant_does_not_make_a_child(
    send: Send, register: Any, gateway: Registered, tenant_b: Any
) -> None:
    """The same number of a row in another tenant is another device."""
    other = register(tenant=tenant_b, cpu_serial="")
    with schema_context(tenant_b.schema_name):
        from devices.models import Device

        same_id = Device.objects.filter(pk=gateway.device.pk).first() or register(tenant=tenant_b).device
        Device.objects.filter(pk=other.device.pk).update(gateway=same_id)
    send((child_topic(gateway, other), signed(gateway, other)))
    assert refusals(gateway.tenant, other.uuid) == [("unknown_child", gateway.device.pk)]
    assert stored(other) == []


def test_an_inactive_gateway_does_not_speak(send: Send, gateway: Registered, child: Registered) -> None:
    from devices.services.provisioning.activation import set_active

    with schema_context(gateway.tenant.schema_name):
        set_active(gateway.device, False)
    send((child_topic(gateway, child), signed(gateway, child)))
    assert refusals(gateway.tenant, child.uuid) == [("inactive_device", child.device.pk)]


def test_refused_messages_for_children_brake_the_gateway(ingest: Any, gateway: Registered, child: Registered) -> None:
    from datetime import UTC, datetime

    from telemetry.services.ingest.batch_preparation import _publisher_of
    from telemetry.services.pipeline.results import Incoming, RefusedItem

    bad = Incoming(child_topic(gateway, child), signed(gateway, child, secret="another"), datetime.now(UTC))
    (item,) = ingest.preparer.validate([bad])
    assert isinstance(item, RefusedItem)
    assert _publisher_of(item).device_id == gateway.device.pk
    assert _publisher_of(replace(item, gateway=None)).device_id == child.device.pk
