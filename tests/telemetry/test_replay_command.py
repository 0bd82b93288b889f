"""The command that replays a quarantine, and messages that cannot be stored."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tests.payloads import topic, v1

from .quarantine import (  # noqa: F401 (fixtures)
    VALUE,
    Send,
    attach,
    begin,
    ingest_fixture,
    kept,
    own_fixture,
    readings,
    send_fixture,
    step,
    tenant_fixture,
    totals,
)


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("replay_quarantine", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_needs_no_worker(own: Any, register: Any, send: Send) -> None:
    device = register(tenant=own, components={})
    send((topic(device), v1(device, VALUE)), (topic(device), b"{"))
    attach(device)
    said = command("--tenant", own.slug, "--reason", "component_not_attached", "--device", device.uuid)
    assert "1 of 1: 1 stored, 0 duplicates, 0 refused again" in said
    assert said.endswith("Done.\n")
    assert kept(own) == {"malformed": 1}
    assert "0 of 0" in command("--tenant", own.slug, "--to", "2020-01-01T00:00:00Z")
    assert "1 refused again (1 malformed)" in command("--tenant", own.slug, "--from", "2020-01-01T00:00:00Z")


def test_the_command_says_what_is_wrong(own: Any) -> None:
    for arguments, words in (
        (("--tenant", "unknown"), "no tenant"),
        (("--tenant", own.slug, "--device", str(uuid4())), "no device"),
        (("--tenant", own.slug, "--reason", "bad_signature"), "never be replayed"),
        (("--tenant", own.slug, "--from", "yesterday"), "write it like"),
        (("--unrouted", "--reason", "malformed"), "leave out"),
        ((), "required"),
    ):
        with pytest.raises(CommandError, match=words):
            command(*arguments)


def test_messages_of_no_tenant_move_to_the_tenant_of_their_device(own: Any, register: Any, send: Send) -> None:
    from tenants.models import DeviceRoute, TenantAlias, UnroutedMessage

    device = register(tenant=own)
    address, unknown = f"{uuid4().hex}@example.com", str(uuid4())
    good = topic(device, segment=address)
    DeviceRoute.objects.get(device_uuid=device.uuid).delete()
    send((good, v1(device, VALUE)), (good, v1(device, VALUE, secret="x")), (f"telemetry/{address}/{unknown}/x", b"{}"))
    assert UnroutedMessage.objects.filter(topic__contains=address).count() == 3
    DeviceRoute.objects.create(device_uuid=device.uuid, tenant=own)
    TenantAlias.objects.create(tenant=own, address=address)
    said = command("--unrouted")
    assert "1 stored" in said
    assert len(readings(device)) == 2
    assert kept(own) == {"bad_signature": 1}
    assert UnroutedMessage.objects.get(topic__contains=address).topic.split("/")[2] == unknown
    assert totals(own) == {"received": 2, "stored": 1, "quarantined": 1}


@contextmanager
def rejected(tenant: Any, value: float) -> Iterator[None]:
    """PostgreSQL rejects readings of this value."""
    with connection.cursor() as cursor:
        schema = connection.ops.quote_name(tenant.schema_name)
        cursor.execute(
            f"CREATE FUNCTION {schema}.reject() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'data_exception'; END $$"
        )
        cursor.execute(
            f"CREATE TRIGGER reject BEFORE INSERT ON {schema}.telemetry_reading FOR EACH ROW"
            f" WHEN (NEW.value = {value}) EXECUTE FUNCTION {schema}.reject()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP FUNCTION {schema}.reject() CASCADE")


@pytest.mark.parametrize("count", [1, 3])
def test_a_message_that_cannot_be_stored_does_not_stop_the_others(
    own: Any, register: Any, send: Send, count: int
) -> None:
    device = register(tenant=own, components={})
    send(*[(topic(device), v1(device, {"temp": number})) for number in range(count)])
    attach(device)
    with rejected(own, 0):
        replay = step(own, begin(own))
    assert (replay.state, replay.stored, replay.refused) == ("done", count - 1, {"component_not_attached": 1})
    assert len(readings(device)) == count - 1
    assert kept(own) == {"component_not_attached": 1}
    assert step(own, begin(own)).stored == 1, "it is stored once its cause is corrected"


def test_a_message_of_no_tenant_that_cannot_be_stored_stays(own: Any, register: Any, send: Send) -> None:
    from tenants.models import DeviceRoute, TenantAlias, UnroutedMessage

    device = register(tenant=own)
    address = f"{uuid4().hex}@example.com"
    DeviceRoute.objects.get(device_uuid=device.uuid).delete()
    send(*[(topic(device, segment=address), v1(device, {"temp": number})) for number in range(3)])
    DeviceRoute.objects.create(device_uuid=device.uuid, tenant=own)
    TenantAlias.objects.create(tenant=own, address=address)
    with rejected(own, 1):
        assert "2 stored" in command("--unrouted")
    assert [value for _metric, value in readings(device)] == [0.0, 2.0]
    assert UnroutedMessage.objects.filter(topic__contains=device.uuid).count() == 1
    command("--unrouted")
    assert len(readings(device)) == 3
    assert not UnroutedMessage.objects.filter(topic__contains=device.uuid).exists()
