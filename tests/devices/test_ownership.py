"""UUIDs that a tenant chose: owned by the first valid signature or by staff, not by the first registration."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.exceptions import ValidationError
from django_tenants.utils import schema_context

from devices.models import AuditEntry, Device
from tenants.models import DeviceRoute, RouteCandidate, UnroutedMessage
from tests.factories import Registered
from tests.payloads import topic, v1, v2

VALUE = {"temp": 21.5, "humidity": 44}


@pytest.fixture
def ingest(live_db: None) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made = build_pipeline()
    yield made
    made.close()


@pytest.fixture
def send(ingest: Any) -> Any:
    """`send((topic, payload), …)`: one batch; its result."""
    from telemetry.services.pipeline.results import Incoming

    def process(*messages: tuple[str, bytes]) -> Any:
        ingest.router.forget()
        return ingest.process([Incoming(topic, payload, datetime.now(UTC)) for topic, payload in messages])

    return process


def ownership_of(device: Registered) -> str:
    with schema_context(device.tenant.schema_name):
        return str(Device.objects.get(pk=device.device.pk).ownership)


def owner_of(uuid: UUID) -> str | None:
    return DeviceRoute.objects.filter(pk=uuid).values_list("tenant__slug", flat=True).first()


def actions_on(device: Registered) -> list[str]:
    with schema_context(device.tenant.schema_name):
        rows = AuditEntry.objects.filter(object_type="devices.device", object_id=str(device.device.pk)).order_by("id")
        return [row.action for row in rows]


def quarantined(device: Registered) -> list[tuple[str, bytes]]:
    from telemetry.models import Quarantined

    with schema_context(device.tenant.schema_name):
        rows = Quarantined.objects.filter(topic__contains=device.uuid).values_list("reason", "payload")
        return [(reason, bytes(payload)) for reason, payload in rows]


def stored(device: Registered) -> int:
    from telemetry.models import Message

    with schema_context(device.tenant.schema_name):
        return Message.objects.filter(device=device.device).count()


@pytest.fixture
def pair(register: Any, tenant_a: Any, tenant_b: Any) -> tuple[Registered, Registered]:
    """The same UUID, registered by a squatter first, then by the tenant that has the device."""
    uuid = uuid4()
    return register(tenant=tenant_b, uuid=uuid), register(tenant=tenant_a, uuid=uuid)


def test_a_generated_uuid_is_owned_at_once(register: Any, tenant_a: Any) -> None:
    device = register(tenant=tenant_a)
    assert (owner_of(device.device.uuid), ownership_of(device)) == (tenant_a.slug, "owned")


@pytest.mark.parametrize("make", [lambda d: v1(d, VALUE), lambda d: v2(d, VALUE, seq=1)])
def test_the_first_valid_signature_proves_a_chosen_uuid(
    pair: tuple[Registered, Registered], send: Any, make: Any
) -> None:
    squatter, device = pair
    uuid = device.device.uuid
    assert (owner_of(uuid), ownership_of(squatter), ownership_of(device)) == (None, "unproven", "unproven")
    assert send((topic(device), make(device))).stored == 1
    assert (owner_of(uuid), ownership_of(device), ownership_of(squatter)) == (device.tenant.slug, "owned", "disputed")
    assert (stored(device), stored(squatter)) == (1, 0)
    assert "prove UUID" in actions_on(device)
    assert "lose UUID" in actions_on(squatter)
    # From now on the route decides: the other key proves nothing, and its tenant receives nothing.
    assert send((topic(squatter), v1(squatter, VALUE))).unrouted == 1
    assert quarantined(squatter) == []
    assert owner_of(uuid) == device.tenant.slug


def test_an_unproven_message_reaches_no_other_registration(pair: tuple[Registered, Registered], send: Any) -> None:
    """What the device sends, with a key that the tenant has mistyped, or a will, or a malformed topic."""
    squatter, device = pair
    wrong, will = v1(device, VALUE, secret="mistyped"), b'{"status": "OFFLINE"}'
    result = send(
        (topic(device), wrong),
        (f"device/lwt/{device.uuid}", will),
        (f"device/birth/{device.uuid}", wrong),
        (f"telemetry/{device.tenant.slug}/{device.uuid}/a/b", wrong),
        (topic(device, segment="other@example.com"), wrong),
    )
    assert (result.stored, result.quarantined, result.unrouted) == (0, 1, 4)
    assert quarantined(device) == [("bad_signature", wrong)]
    assert quarantined(squatter) == []
    assert owner_of(device.device.uuid) is None
    assert UnroutedMessage.objects.filter(topic__contains=device.uuid).count() == 4


def test_a_key_proves_only_on_a_topic_of_its_tenant(pair: tuple[Registered, Registered], send: Any) -> None:
    squatter, device = pair
    assert send((topic(device), v1(squatter, VALUE))).quarantined == 1
    assert owner_of(device.device.uuid) is None


def test_a_proven_uuid_cannot_be_registered_again(
    pair: tuple[Registered, Registered], send: Any, register: Any
) -> None:
    squatter, device = pair
    send((topic(device), v1(device, VALUE)))
    with pytest.raises(ValidationError, match=r"is already registered\. If the device is yours, ask"):
        register(tenant=squatter.tenant, uuid=device.device.uuid)
    with pytest.raises(ValidationError, match="is already registered"):
        register(tenant=squatter.tenant, uuid=device.device.uuid, is_uuid_confirmed=True)


def test_two_that_prove_at_once_get_one_route(pair: tuple[Registered, Registered], live_db: None) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from django.db import connection

    from devices.services.provisioning import ownership

    def prove(device: Registered) -> bool:
        try:
            return ownership.prove(device.device.uuid, device.tenant.schema_name)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(prove, pair * 4))
    winner = pair[0] if results[0] else pair[1]
    assert results == [device is winner for device in pair * 4]
    assert owner_of(winner.device.uuid) == winner.tenant.slug


def test_removing_a_device_of_a_dispute_leaves_the_owners_route_and_account(
    pair: tuple[Registered, Registered], send: Any
) -> None:
    from devices.services.broker import accounts
    from devices.services.provisioning import registration

    squatter, device = pair
    send((topic(device), v1(device, VALUE)))
    with schema_context(squatter.tenant.schema_name):
        registration.remove_device(squatter.device)
    assert owner_of(device.device.uuid) == device.tenant.slug
    assert not RouteCandidate.objects.filter(device_uuid=device.device.uuid).exists()
    assert device.uuid in accounts.accounts()


def test_the_second_registration_does_not_change_the_firsts_account(
    register: Any, tenant_a: Any, tenant_b: Any
) -> None:
    from tests.mqtt import RawClient

    uuid = uuid4()
    first = register(tenant=tenant_a, uuid=uuid)
    second = register(tenant=tenant_b, uuid=uuid)
    with RawClient(first.uuid, first.mqtt_password) as client:
        assert client.refusal is None
    with schema_context(tenant_b.schema_name):
        from devices.services.provisioning import activation, registration

        registration.replace_credentials(second.device)
        activation.set_active(second.device, False)
    with RawClient(first.uuid, first.mqtt_password) as client:
        assert client.refusal is None


def test_staff_confirm_a_tenant_against_the_one_that_has_proven(
    pair: tuple[Registered, Registered], send: Any, live_db: None
) -> None:
    from devices.services.provisioning import disputes

    squatter, device = pair
    send((topic(squatter), v1(squatter, VALUE)))
    assert ownership_of(device) == "disputed"
    lost = v1(device, {"temp": 1})
    assert send((topic(device), lost)).unrouted == 1, "staff have it, and not the squatter"
    assert quarantined(squatter) == []
    disputes.confirm_by_staff(device.uuid, device.tenant.schema_name, 1, "staff")
    assert (ownership_of(device), ownership_of(squatter)) == ("owned", "disputed")
    assert "confirm UUID" in actions_on(device)
    assert "release UUID" in actions_on(squatter)
    assert send((topic(device), v1(device, VALUE))).stored == 1
    with pytest.raises(ValidationError, match="has not registered"):
        disputes.confirm_by_staff(device.uuid, squatter.tenant.schema_name, 1, "staff")


def test_staff_release_a_uuid_and_its_tenant_registers_it(
    register: Any, send: Any, tenant_a: Any, tenant_b: Any
) -> None:
    from devices.services.provisioning import disputes

    squatter = register(tenant=tenant_b, uuid=uuid4())
    send((topic(squatter), v1(squatter, VALUE)))
    assert owner_of(squatter.device.uuid) == tenant_b.slug
    disputes.release_by_staff(squatter.uuid, 1, "staff")
    assert (owner_of(squatter.device.uuid), ownership_of(squatter)) == (None, "disputed")
    device = register(tenant=tenant_a, uuid=squatter.device.uuid)
    assert send((topic(squatter), v1(squatter, VALUE))).unrouted == 1, "the release has removed its claim"
    assert send((topic(device), v1(device, VALUE))).stored == 1
