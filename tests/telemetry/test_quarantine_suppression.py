"""Floods of refused messages are counted, and each source has its share of the quarantine."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from django.db import connection
from django_tenants.utils import schema_context

from tests.factories import Registered, add_quarantined
from tests.payloads import topic, v1

from .quarantine import (  # noqa: F401 (fixtures)
    VALUE,
    Send,
    begin,
    counted,
    ingest_fixture,
    kept,
    own_fixture,
    quarantined_of,
    readings,
    send_fixture,
    step,
    tenant_fixture,
    totals,
)


def malformed_messages(device: Registered, count: int, first: int = 0) -> list[tuple[str, bytes]]:
    return [(topic(device), b"{%d" % number) for number in range(first, first + count)]


def test_a_flood_is_counted(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_SOURCE_MESSAGES = 200
    device, other = register(tenant=own), register(tenant=own)
    for first in range(0, 10_000, 500):
        send(*malformed_messages(device, 500, first))
    assert kept(own) == {"malformed": 200}
    assert counted(own) == {("malformed", device.device.pk, ""): 9800}
    assert totals(own) == {"received": 10_000, "quarantined": 10_000}
    # Another reason, another device, and messages that are kept already do not count.
    send(
        (topic(device), v1(device, VALUE, secret="x")),
        *malformed_messages(other, 1),
        *malformed_messages(device, 1),
        *malformed_messages(device, 1, 20_000),
    )
    assert kept(own) == {"malformed": 201, "bad_signature": 1}
    assert counted(own) == {("malformed", device.device.pk, ""): 9801}
    assert totals(own) == {"received": 10_004, "quarantined": 10_004}


def test_a_listener_that_starts_anew_knows_what_is_full(own: Any, register: Any, send: Send, settings: Any) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    settings.QUARANTINE_SOURCE_MESSAGES = 5
    device = register(tenant=own)
    send(*malformed_messages(device, 6))
    another = build_pipeline()
    try:
        another.process([Incoming(t, p, datetime.now(UTC)) for t, p in malformed_messages(device, 3, 100)])
    finally:
        another.close()
    assert kept(own) == {"malformed": 5}
    assert counted(own) == {("malformed", device.device.pk, ""): 4}


def test_a_batch_that_could_not_be_stored_uses_nothing_up(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_SOURCE_MESSAGES = 6
    device = register(tenant=own)
    payload = v1(device, VALUE)
    send((topic(device), payload))
    # The duplicate sends each batch a second way.
    for first in (0, 2, 4, 6):
        send((topic(device), payload), *malformed_messages(device, 2, first))
    assert kept(own) == {"malformed": 6}
    assert counted(own) == {("malformed", device.device.pk, ""): 2}


def test_invented_devices_share_one_number_for_staff_and_reach_no_tenant(own: Any, send: Send, settings: Any) -> None:
    from tenants.models import SuppressedUnroutedMessages, UnroutedMessage

    UnroutedMessage.objects.all().delete()
    SuppressedUnroutedMessages.objects.all().delete()
    settings.QUARANTINE_SOURCE_MESSAGES = 3
    named = str(uuid4())
    send(*[(f"telemetry/{own.slug}/{named}/dht22", b"%d" % number) for number in range(5)])
    send(*[(f"telemetry/{own.slug}/{uuid4()}/dht22", b"{}") for _ in range(50)])
    assert UnroutedMessage.objects.filter(topic__contains=own.slug).count() == 30
    assert dict(SuppressedUnroutedMessages.objects.values_list("source", "count")) == {
        "": 23,
        f"{own.slug}/{named}": 2,
    }
    assert (kept(own), counted(own), totals(own)) == ({}, {}, {})


def test_a_replay_takes_nothing_from_another_tenant(own: Any, register: Any, send: Send, tenant_b: Any) -> None:
    """A row from before, of a device that another tenant has registered since."""
    from telemetry.models import Quarantined

    device = register(tenant=tenant_b)
    forms = [topic(device, segment=own.slug), f"telemetry/{own.slug}/{device.uuid}/a/b", topic(device)]
    for number, text in enumerate(forms):
        add_quarantined(
            own, datetime.now(UTC), "unknown_device", topic=text, payload=v1(device, {"temp": number}), device=None
        )
    replay = step(own, begin(own))
    assert replay.refused == {"wrong_tenant": 3}
    with schema_context(own.schema_name):
        rows = list(Quarantined.objects.values_list("device", "detail"))
    assert rows == [(None, "The device belongs to another tenant.")] * 3
    assert readings(device) == []


def test_parked_messages_are_never_thrown_away(own: Any, register: Any, send: Send, settings: Any, stack: Any) -> None:
    settings.QUARANTINE_SOURCE_MESSAGES = 2
    settings.QUARANTINE_MEGABYTES = 1
    device = register(tenant=own)
    stack.stop_server("openbao")
    try:
        send(*[(topic(device), v1(device, {"temp": number})) for number in range(9)])
    finally:
        stack.start_server("openbao")
        stack.wait_ready("openbao", 20)
    assert kept(own) == {"key_unavailable": 9}
    from telemetry.services.retention import quarantine as quarantine_retention

    with schema_context(own.schema_name):
        quarantine_retention.apply_retention(now=datetime.now(UTC) + timedelta(days=1000))
    assert kept(own) == {"key_unavailable": 9}


def test_one_source_may_not_fill_the_room(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_MEGABYTES = 1
    device = register(tenant=own)
    large = [(topic(device), b"{%d" % number + b"x" * 30_000) for number in range(10)]
    send(*large)
    assert kept(own) == {"malformed": 3}
    assert counted(own) == {("malformed", device.device.pk, ""): 7}


def test_a_flood_of_unknowns_messages_is_counted(live_db: None, send: Send, settings: Any) -> None:
    from tenants.models import SuppressedUnroutedMessages, UnroutedMessage

    SuppressedUnroutedMessages.objects.all().delete()
    settings.QUARANTINE_SOURCE_MESSAGES = 4
    segment = uuid4().hex
    uuid = uuid4()
    messages = [(f"telemetry/{segment}/{uuid}/x", b"%d" % number) for number in range(10)]
    assert send(*messages).unrouted == 10
    assert UnroutedMessage.objects.filter(topic__contains=segment).count() == 4
    assert SuppressedUnroutedMessages.objects.get(source=f"{segment}/{uuid}").count == 6


def large_messages(device: Registered, count: int, size: int = 30_000, first: int = 0) -> list[tuple[str, bytes]]:
    return [(topic(device), b"{%d" % number + b"x" * size) for number in range(first, first + count)]


def test_no_number_of_devices_uses_up_the_room_of_another(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_MEGABYTES = 1
    hostile, honest = [register(tenant=own) for _ in range(12)], register(tenant=own)
    for device in hostile:
        send(*large_messages(device, 5))
    for device in hostile:
        send(*malformed_messages(device, 20))
    assert 0 < quarantined_of(hostile[-1]) < 20, "half of the day's bytes are used up"
    for number in range(2):
        send((topic(honest), b"{%d" % number))
    assert quarantined_of(honest) == 2
    assert totals(own) == {"received": 302, "quarantined": 302}
    assert sum(counted(own).values()) == 302 - kept(own)["malformed"]
    with schema_context(own.schema_name), connection.cursor() as cursor:
        cursor.execute("SELECT sum(octet_length(payload)) FROM telemetry_quarantined")
        assert cursor.fetchone()[0] < 2**19


def test_a_source_has_one_room_for_all_reasons(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_MEGABYTES = 1
    device = register(tenant=own)
    forms = [
        f"telemetry/{own.slug}/{{}}/a/b",
        f"telemetry/{own.slug}/{{}}/a",
        f"telemetry/{own.slug}/{{}}/toaster",
        f"telemetry/{own.slug}/{{}}/",
    ]
    for number, form in enumerate(forms):
        payload = v1(device, {"temp": number}, padding="x" * 45_000)
        send((form.format(device.uuid), payload), (form.format(device.uuid), payload.replace(b"xx", b"yy", 1)))
    assert sum(kept(own).values()) == 2
    assert totals(own) == {"received": 8, "quarantined": 8}


def test_a_listener_that_starts_anew_knows_the_room_that_is_used(
    own: Any, register: Any, send: Send, settings: Any
) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    settings.QUARANTINE_MEGABYTES = 1
    device = register(tenant=own)
    send(*large_messages(device, 3))
    assert (kept(own), counted(own)) == ({"malformed": 3}, {})
    another = build_pipeline()
    try:
        another.process([Incoming(t, p, datetime.now(UTC)) for t, p in large_messages(device, 2, first=10)])
    finally:
        another.close()
    assert kept(own) == {"malformed": 3}
    assert counted(own) == {("malformed", device.device.pk, ""): 2}


def test_a_listener_that_starts_anew_knows_what_staff_have(live_db: None, send: Send, settings: Any) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming
    from tenants.models import SuppressedUnroutedMessages, UnroutedMessage

    UnroutedMessage.objects.all().delete()
    SuppressedUnroutedMessages.objects.all().delete()
    settings.QUARANTINE_SOURCE_MESSAGES = 3
    forms = ["device", "a/b", "telemetry/x/{}/y/z", "//"]
    uuid = uuid4()
    messages = [(form.format(uuid), b"%d" % number) for form in forms for number in range(3)]
    send(*messages)
    assert UnroutedMessage.objects.count() == len(messages)
    another = build_pipeline()
    try:
        another.process([Incoming(t, p + b"again", datetime.now(UTC)) for t, p in messages])
    finally:
        another.close()
    assert UnroutedMessage.objects.count() == len(messages)
    assert {row.source: row.count for row in SuppressedUnroutedMessages.objects.all()} == {
        "-": 3, "b": 3, f"x/{uuid}": 3, "/": 3,
    }  # fmt: skip
