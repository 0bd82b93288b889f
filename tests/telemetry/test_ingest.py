"""Batches through the whole pipeline, on real servers: stored once, or refused with a reason."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django_tenants.utils import schema_context

from tests import payloads
from tests.factories import Registered
from tests.payloads import topic, v1, v2
from tests.processes import wait_until
from tests.redis_recovery import wait_for_redis

Send = Callable[..., Any]


@pytest.fixture
def ingest(live_db: None) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made = build_pipeline()
    yield made
    made.writer.close()


@pytest.fixture
def send(ingest: Any) -> Send:
    """`send((topic, payload), …)`: one batch; its result."""
    from telemetry.services.pipeline.results import Incoming

    def process(*messages: tuple[str, bytes], received_at: datetime | None = None) -> Any:
        result = ingest.process([Incoming(t, p, received_at or datetime.now(UTC)) for t, p in messages])
        ingest.tick(last=True)
        return result

    return process


def readings(device: Registered) -> list[tuple[str, str, Any, str]]:
    """(component, metric, value, unit) of the device, in order of time."""
    from telemetry.models import Reading

    with schema_context(device.tenant.schema_name):
        rows = Reading.objects.filter(series__device=device.device).order_by("time", "series__metric", "value")
        return [
            (r.series.component, r.series.metric, r.text if r.text is not None else r.value, r.series.unit)
            for r in rows.select_related("series")
        ]


def refused(device: Registered) -> list[tuple[str, int]]:
    """(reason, times) of the device's quarantine."""
    from telemetry.models import Quarantined

    with schema_context(device.tenant.schema_name):
        return list(
            Quarantined.objects.filter(topic__contains=device.uuid).order_by("id").values_list("reason", "count")
        )


def messages(device: Registered) -> list[Any]:
    from telemetry.models import Message

    with schema_context(device.tenant.schema_name):
        return list(Message.objects.filter(device=device.device).order_by("time"))


def status(device: Registered) -> tuple[str, list[tuple[str, str, str]]]:
    """The device's status and its ledger."""
    from devices.models import DeviceStatus, StatusChange

    with schema_context(device.tenant.schema_name):
        changes = StatusChange.objects.filter(device=device.device).order_by("id")
        return (
            DeviceStatus.objects.get(device=device.device).status,
            list(changes.values_list("from_status", "to_status", "cause")),
        )


VALUE = {"temp": 21.5, "humidity": 44}
READ = [("dht22", "humidity", 44.0, "%"), ("dht22", "temperature", 21.5, "°C")]


@pytest.mark.parametrize("version", [1, 2])
def test_a_signed_message_becomes_readings_with_units(register: Any, send: Send, version: int) -> None:
    device = register()
    payload = v1(device, VALUE) if version == 1 else v2(device, VALUE, seq=1)
    result = send((topic(device), payload))
    assert (result.stored, result.duplicates, result.quarantined) == (1, 0, 0)
    assert readings(device) == READ
    [kept] = messages(device)
    assert bytes(kept.payload) == payload, "the message is kept as it was sent"
    assert (kept.topic, kept.signature, kept.late) == (topic(device), version, False)
    assert status(device) == ("ONLINE", [("UNKNOWN", "ONLINE", "telemetry")])


@pytest.mark.parametrize("version", [1, 2])
def test_a_message_is_stored_once_however_often_it_comes(register: Any, send: Send, version: int) -> None:
    device = register()
    payload = v1(device, VALUE) if version == 1 else v2(device, VALUE, seq=7)
    send((topic(device), payload), (topic(device), payload))
    result = send((topic(device), payload))
    assert (result.stored, result.duplicates) == (0, 1)
    assert readings(device) == READ
    assert len(messages(device)) == 1


def test_a_version_1_message_written_in_another_way_is_the_same_message(register: Any, send: Send) -> None:
    device = register()
    payload = v1(device, VALUE)
    send((topic(device), payload))
    written = json.loads(payload)
    for again in (json.dumps(written, indent=2), json.dumps(dict(reversed(written.items())), separators=(",", ":"))):
        result = send((topic(device), again.encode()))
        assert (result.stored, result.duplicates) == (0, 1)
    assert len(messages(device)) == 1


def test_two_values_of_one_instant_are_both_kept(register: Any, send: Send) -> None:
    device = register()
    at = payloads.timestamp()
    send((topic(device), v1(device, {"temp": 1}, timestamp=at)), (topic(device), v1(device, {"temp": 2}, timestamp=at)))
    send((topic(device), v1(device, {"temp": 2, "humidity": 5}, timestamp=at)))
    assert [row[2] for row in readings(device) if row[1] == "temperature"] == [1.0, 2.0]


def test_old_firmware_names_the_type_and_its_owner(register: Any, send: Send, tenant_a: Any) -> None:
    from tenants.models import TenantAlias

    TenantAlias.objects.get_or_create(tenant=tenant_a, address="grower@example.com")
    device = register(components={"air": "dht22"})
    send((topic(device, "dht22/status", segment="grower@example.com"), v1(device, VALUE)))
    assert [row[0] for row in readings(device)] == ["air", "air"]


def test_booleans_and_converted_units(register: Any, send: Send) -> None:
    from devices.models import ComponentType, Metric, Unit

    device = register(components={"relay": "relay"})
    with schema_context(device.tenant.schema_name):
        relay = ComponentType.objects.get(key="relay")
        celsius, fahrenheit = Unit.objects.get(symbol="°C"), Unit.objects.get(symbol="°F")
        metric = Metric(component_type=relay, key="case", path="/value/list/0", unit=celsius, sent_unit=fahrenheit)
        metric.full_clean()
        metric.save()
    send((topic(device, "relay"), v1(device, {"state": "OFF", "list": [68.0]})))
    assert readings(device) == [("relay", "case", 20.0, "°C"), ("relay", "state", 0.0, "")]
    with schema_context(device.tenant.schema_name):
        metric.delete()


def test_the_unit_of_old_readings_stays_when_the_metric_changes(register: Any, send: Send, tenant_b: Any) -> None:
    from devices.models import Metric, Unit

    device = register(tenant=tenant_b)
    send((topic(device), v1(device, {"temp": 20})))
    with schema_context(tenant_b.schema_name):
        metric = Metric.objects.get(component_type__key="dht22", key="temperature")
        metric.sent_unit, metric.unit = metric.unit, Unit.objects.get(symbol="K")
        metric.minimum = metric.maximum = None
        metric.save()
    import time

    time.sleep(0.15)  # the change reaches the listener with its next look at Redis
    send((topic(device), v1(device, {"temp": 20})))
    assert readings(device) == [("dht22", "temperature", 20.0, "°C"), ("dht22", "temperature", 293.15, "K")]


def other_tenants_slug(device: Registered) -> tuple[str, bytes]:
    return topic(device, segment="beta-farm"), v1(device, VALUE)


def _changed(payload: bytes) -> bytes:
    return payload.replace(b"21.5", b"99.5")


REFUSALS: list[tuple[str, Callable[[Registered], tuple[str, bytes]]]] = [
    ("malformed", lambda d: (topic(d), b"{not json")),
    ("malformed", lambda d: (topic(d), b"")),
    ("malformed", lambda d: (topic(d), b"[1]")),
    ("malformed", lambda d: (topic(d), b"\xff\xfe")),
    ("malformed", lambda d: (topic(d), b'{"timestamp": NaN}')),
    ("malformed", lambda d: (topic(d), b'{"a":' * 3000 + b"1" + b"}" * 3000)),
    ("malformed", lambda d: (topic(d), v1(d, VALUE, timestamp="yesterday"))),
    ("malformed", lambda d: (topic(d), v1(d, VALUE, timestamp="2026-11-22T09:30:00"))),
    ("malformed", lambda d: (topic(d), v2(d, VALUE, seq=-1))),
    ("malformed", lambda d: (topic(d), v2(d, VALUE, seq=1, boot=...))),  # type: ignore[arg-type]  # left out
    ("too_large", lambda d: (topic(d), b"x" * (1 << 20))),
    ("wrong_tenant", other_tenants_slug),
    ("bad_signature", lambda d: (topic(d), _changed(v1(d, VALUE)))),
    ("bad_signature", lambda d: (topic(d), v1(d, VALUE, secret="another"))),
    ("bad_signature", lambda d: (topic(d), json.dumps({"timestamp": payloads.timestamp(), "value": VALUE}).encode())),
    ("bad_signature", lambda d: (topic(d), v2(d, VALUE, seq=1, secret="another"))),
    ("bad_signature", lambda d: (topic(d), v2(d, VALUE, seq=1, kid="9"))),
    ("bad_signature", lambda d: (topic(d), v2(d, VALUE, seq=1, device_uuid=str(uuid.uuid4())))),
    ("bad_signature", lambda d: (topic(d), v2(d, VALUE, seq=1, component="relay"))),
    ("bad_signature", lambda d: (topic(d), b"a.b.c")),
    ("future_timestamp", lambda d: (topic(d), v1(d, VALUE, ago=-3600))),
    ("cpu_serial_mismatch", lambda d: (topic(d), v1(d, VALUE, cpu_serial="moved"))),
    ("hardware_version_mismatch", lambda d: (topic(d), v1(d, VALUE, hardware_version="9.9"))),
    ("unknown_component", lambda d: (topic(d, "thermocouple"), v1(d, VALUE))),
    ("unknown_component", lambda d: (topic(d), v1(d, VALUE, component_type="soil"))),
    ("component_not_attached", lambda d: (topic(d, "soil"), v1(d, VALUE))),
    ("wrong_type", lambda d: (topic(d), v1(d, {"temp": "warm"}))),
    ("out_of_range", lambda d: (topic(d), v1(d, {"temp": 500}))),
]


@pytest.mark.parametrize(("reason", "make"), REFUSALS, ids=[f"{i}-{reason}" for i, (reason, _) in enumerate(REFUSALS)])
def test_what_is_refused_is_quarantined_with_its_reason_and_spares_its_batch(
    register: Any, send: Send, reason: str, make: Callable[[Registered], tuple[str, bytes]]
) -> None:
    device, neighbour = register(), register()
    result = send(
        (topic(neighbour), v1(neighbour, VALUE)), make(device), (topic(neighbour), v1(neighbour, {"temp": 3}))
    )
    assert (result.stored, result.quarantined) == (2, 1)
    assert refused(device) == [(reason, 1)]
    assert readings(device) == []
    assert messages(device) == []
    assert status(device) == ("UNKNOWN", [])
    assert len(readings(neighbour)) == 3


def test_the_same_refused_message_again_is_counted(register: Any, send: Send) -> None:
    device = register()
    send((topic(device), b"{"), (topic(device), b"{"))
    send((topic(device), b"{"))
    assert refused(device) == [("malformed", 3)]


def test_a_component_that_the_model_may_not_carry(register: Any, send: Send, tenant_a: Any) -> None:
    from devices.models import ComponentType, HardwareModel

    with schema_context(tenant_a.schema_name):
        small, _ = HardwareModel.objects.get_or_create(name="Small board", version="1")
    device = register(hardware_model=small)
    with schema_context(tenant_a.schema_name):
        small.allowed_component_types.set([ComponentType.objects.get(key="soil")])
    with pytest.raises(ValidationError, match="cannot have a component of type dht22; allowed types: soil"):
        register(hardware_model=small)
    send((topic(device), v1(device, VALUE)))
    assert refused(device) == [("component_not_allowed", 1)]


def kept_in(tenant: Any, part: str) -> list[str]:
    """Reasons in the tenant's quarantine of messages whose topic contains the part."""
    from telemetry.models import Quarantined

    with schema_context(tenant.schema_name):
        return list(Quarantined.objects.filter(topic__contains=part).values_list("reason", flat=True))


@pytest.mark.parametrize(
    "form",
    ["telemetry/{0}/{1}/dht22", "telemetry/{0}/{1}/a/b", "telemetry/{0}/{1}", "device/birth/{1}", "device/lwt/{1}/x"],
)
def test_a_message_of_an_unregistered_device_is_kept_for_staff(send: Send, tenant_a: Any, form: str) -> None:
    from tenants.models import TenantAlias, UnroutedMessage

    stranger = str(uuid.uuid4())
    alias = TenantAlias.objects.create(tenant=tenant_a, address=f"{stranger}@example.com")
    for segment in (tenant_a.slug, alias.address):
        result = send((form.format(segment, stranger), segment.encode()))
        assert (result.quarantined, result.unrouted) == (0, 1)
    assert UnroutedMessage.objects.filter(topic__contains=stranger).count() >= 1
    assert kept_in(tenant_a, stranger) == []
    alias.delete()


@pytest.mark.parametrize(
    "form",
    [
        "telemetry/{0}/{1}/a/b",
        "telemetry/{0}/{1}/dht22/status/x",
        "telemetry/{0}/{1}/",
        "telemetry/{0}/{1}",
        "telemetry/{0}/{1}/" + "x/" * 200,
        "device/lwt/{1}/x",
        "device/lwt/status/{1}/x",
        "device/birth/{1}/{2}",
    ],
)
def test_a_malformed_topic_belongs_to_the_device_that_may_publish_on_it(
    register: Any, send: Send, tenant_a: Any, tenant_b: Any, form: str
) -> None:
    from telemetry.models import Quarantined

    device, other = register(tenant=tenant_b), register(tenant=tenant_a)
    result = send((form.format(tenant_a.slug, device.uuid, other.uuid), b"{secret}"))
    assert (result.quarantined, result.unrouted) == (1, 0)
    assert refused(device) == [("malformed", 1)]
    assert kept_in(tenant_a, device.uuid) == []
    with schema_context(tenant_b.schema_name):
        row = Quarantined.objects.get(topic__contains=device.uuid)
    # The payload may be of a device of the tenant that the topic names.
    names_another = form.startswith("telemetry")
    assert bytes(row.payload) == (b"" if names_another else b"{secret}")
    assert ("The payload is not stored" in row.detail) is names_another


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("bad_signature", lambda d: v1(d, VALUE, secret="the secret of another")),
        ("bad_signature", lambda d: v2(d, VALUE, seq=1, secret="the secret of another")),
        ("bad_signature", lambda d: b'{"timestamp": 1}'),
        ("malformed", lambda d: b"not JSON"),
        ("too_large", lambda d: v1(d, VALUE, padding="x" * 70_000)),
    ],
)
def test_an_unverified_message_on_another_tenants_topic_is_for_staff(
    register: Any, send: Send, tenant_a: Any, tenant_b: Any, reason: str, make: Callable[[Registered], bytes]
) -> None:
    """A tenant that registers the UUID of another's device must not receive its messages, which a bridge delivers."""
    from tenants.models import UnroutedMessage

    squatted = register(tenant=tenant_b)
    payload = make(squatted)
    result = send((topic(squatted, segment=tenant_a.slug), payload))
    assert (result.stored, result.quarantined, result.unrouted) == (0, 0, 1)
    row = UnroutedMessage.objects.get(topic__contains=squatted.uuid)
    assert (row.reason, bytes(row.payload)) == (reason, payload)
    assert refused(squatted) == []
    assert kept_in(tenant_a, squatted.uuid) == []


def test_a_verified_message_on_another_segment_stays_the_tenants_own(
    register: Any, send: Send, tenant_a: Any, tenant_b: Any
) -> None:
    """A forgotten alias is registered later, and the messages are replayed."""
    device = register(tenant=tenant_b)
    for payload in (v1(device, VALUE), v2(device, VALUE, seq=1)):
        assert send((topic(device, segment="old@example.com"), payload)).quarantined == 1
    assert refused(device) == [("wrong_tenant", 2)] or refused(device) == [("wrong_tenant", 1)] * 2


def test_a_malformed_topic_waits_for_its_tenants_tables(register: Any, ingest: Any, tenant_b: Any) -> None:
    from telemetry.services.pipeline.results import Incoming
    from tenants.infrastructure.database import conninfo

    device = register(tenant=tenant_b)
    incoming = Incoming(f"telemetry/alpha/{device.uuid}/a/b", b"{}", datetime.now(UTC))
    with psycopg.connect(conninfo()) as other:
        other.execute(f'LOCK TABLE "{tenant_b.schema_name}".devices_device IN ACCESS EXCLUSIVE MODE')
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")  # as the listener's connection has it
        assert ingest.process([incoming]).to_acknowledge == []
        assert ingest.blocked_messages == 1
    wait_until(lambda: ingest.is_retry_due and ingest.retry_blocked().quarantined == 1, 60)
    assert refused(device) == [("malformed", 1)]


@pytest.mark.parametrize(
    "bad", ["telemetry", "telemetry/alpha/not-a-uuid/dht22", "a/b", "device/birth/x", "", "telemetry/alpha/x/{0}/y"]
)
def test_a_topic_that_names_no_device_is_kept_for_staff(
    register: Any, send: Send, bad: str, tenant_a: Any, tenant_b: Any
) -> None:
    from telemetry.models import Quarantined

    def count() -> int:
        with schema_context(tenant_a.schema_name):
            return Quarantined.objects.count()

    before = count()
    result = send((bad.format(register(tenant=tenant_b).uuid), b"payload"))
    assert (result.quarantined, result.unrouted) == (0, 1)
    assert count() == before


def test_an_inactive_device(register: Any, send: Send) -> None:
    device = register()
    with schema_context(device.tenant.schema_name):
        device.device.active = False
        device.device.save()
    send((topic(device), v1(device, VALUE)))
    assert refused(device) == [("inactive_device", 1)]


def test_after_version_2_version_1_is_a_downgrade(register: Any, send: Send) -> None:
    device = register()
    send((topic(device), v1(device, VALUE)))
    result = send((topic(device), v2(device, VALUE, seq=1)), (topic(device), v1(device, {"temp": 9})))
    assert (result.stored, result.quarantined) == (1, 1)
    assert refused(device) == [("downgraded_signature", 1)]
    with schema_context(device.tenant.schema_name):
        device.device.refresh_from_db()
        assert device.device.min_signature_version == 2


def test_no_other_listener_hears_version_1_after_version_2(register: Any, send: Send, live_db: None) -> None:
    """Whenever it was sent: only staff can let it in again, and nothing is lost meanwhile."""
    from devices.services.provisioning.registration import allow_version_1
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    device, other = register(), build_pipeline()
    late = v1(device, {"temp": 9}, ago=1)

    def hear(payload: bytes) -> Any:
        time.sleep(0.15)  # a listener asks what changed ten times a second
        return other.process([Incoming(topic(device), payload, datetime.now(UTC))])

    try:
        assert hear(v1(device, VALUE)).stored == 1, "it knows the device as one of version 1"
        send((topic(device), v2(device, VALUE, seq=1)))
        assert hear(late).quarantined == 1
        assert refused(device) == [("downgraded_signature", 1)]
        with schema_context(device.tenant.schema_name):
            device.device.refresh_from_db()
            allow_version_1(device.device)
        assert hear(v1(device, {"temp": 8})).stored == 1
        assert hear(v1(device, {"temp": 7})).stored == 1, "what was announced before does not count again"
    finally:
        other.close()


@pytest.mark.parametrize("in_one_batch", [True, False])
def test_another_message_under_a_known_counter_is_replayed(register: Any, send: Send, in_one_batch: bool) -> None:
    device = register()
    first, second = v2(device, VALUE, seq=5), v2(device, {"temp": 9}, seq=5)
    if in_one_batch:
        send((topic(device), first), (topic(device), second))
    else:
        send((topic(device), first))
        send((topic(device), second))
    send((topic(device), first))
    assert refused(device) == [("replayed", 1)]
    assert readings(device) == READ
    send((topic(device), v2(device, {"temp": 10}, seq=5, boot=2)))
    assert refused(device) == [("replayed", 1)], "another boot begins its counter anew"


def test_a_message_of_another_device_under_ones_own_name_is_refused(register: Any, send: Send) -> None:
    device, other = register(), register()
    send((topic(device), v1(other, VALUE)), (topic(device), v2(other, VALUE, seq=1)))
    assert refused(device) == [("bad_signature", 1), ("bad_signature", 1)]


def test_rotation_keeps_the_old_key_for_the_overlap(register: Any, send: Send) -> None:
    from devices.services.provisioning.registration import revoke_key, rotate_key

    device = register()
    with schema_context(device.tenant.schema_name):
        issued = rotate_key(device.device, overlap=timedelta(days=1))
    new = Registered(device.tenant, device.device, issued.secret, str(issued.key_version), "")
    assert send((topic(device), v1(device, {"temp": 1})), (topic(device), v1(new, {"temp": 2}))).stored == 2
    assert (
        send((topic(device), v2(new, {"temp": 3}, seq=1)), (topic(device), v2(device, {"temp": 4}, seq=2))).stored == 2
    )
    with schema_context(device.tenant.schema_name):
        revoke_key(device.device.credentials.get(version=int(device.kid)))
    import time

    time.sleep(0.15)
    assert send((topic(device), v2(device, {"temp": 5}, seq=3))).quarantined == 1
    assert refused(device) == [("bad_signature", 1)]


def test_late_messages_are_stored_and_no_sign_of_life(register: Any, send: Send) -> None:
    device = register()
    send((topic(device), v1(device, VALUE, ago=3600)))
    assert readings(device) == READ
    assert messages(device)[0].late
    assert status(device) == ("UNKNOWN", [])


def test_messages_of_old_and_odd_times_find_a_partition(register: Any, send: Send, settings: Any) -> None:
    settings.INGEST_EARLIEST_DATE = date(1970, 1, 1)
    device = register()
    for at in ("1970-01-01T00:00:00Z", "2026-01-31T23:59:59.999999Z", "2026-02-01T00:00:00+00:00", 0):
        assert send((topic(device), v1(device, VALUE, timestamp=at))).stored == 1
    assert len(messages(device)) == 4


def test_totals_obey_the_law_of_conservation(register: Any, send: Send, tenant_a: Any) -> None:
    from telemetry.models import IngestTotals

    def totals() -> tuple[int, ...]:
        with schema_context(tenant_a.schema_name):
            row = IngestTotals.objects.order_by("-day").first()
            return (row.received, row.stored, row.duplicates, row.quarantined) if row else (0, 0, 0, 0)

    before = totals()
    device = register()
    payload = v1(device, VALUE)
    send((topic(device), payload), (topic(device), payload), (topic(device), b"{"))
    assert tuple(now - then for now, then in zip(totals(), before, strict=True)) == (3, 1, 1, 1)


def test_vault_away_parks_messages_and_spares_known_devices(register: Any, send: Send, ingest: Any, stack: Any) -> None:
    known, unknown = register(), register()
    assert send((topic(known), v1(known, VALUE))).stored == 1
    stack.stop_server("openbao")
    try:
        result = send((topic(known), v1(known, {"temp": 2})), (topic(unknown), v1(unknown, VALUE)))
    finally:
        stack.start_server("openbao")
        stack.wait_ready("openbao", 20)
    assert (result.stored, result.quarantined) == (1, 1)
    assert refused(unknown) == [("key_unavailable", 1)]
    assert ingest.deferred_schemas == {unknown.tenant.schema_name}
    from telemetry.services.ingest import deferred_messages

    wait_until(lambda: not ingest.keyring.is_vault_unavailable)
    assert deferred_messages.find_deferred() == {unknown.tenant.schema_name}
    assert deferred_messages.replay_deferred(ingest) == 1
    assert (refused(unknown), readings(unknown)) == ([], READ)
    assert status(unknown)[0] == "UNKNOWN", "a replay is not activity"
    assert deferred_messages.replay_deferred(ingest) == 0


def test_a_birth_needs_neither_counter_nor_board(register: Any, send: Send) -> None:
    device = register()
    members = {"device_uuid": device.uuid, "session": "s", "timestamp": payloads.timestamp()}
    assert send((f"device/birth/{device.uuid}", payloads.token(members, device.secret, device.kid))).stored == 1
    moved = payloads.token({**members, "cpu_serial": "moved"}, device.secret, device.kid)
    send((f"device/birth/{device.uuid}", moved))
    assert refused(device) == [("cpu_serial_mismatch", 1)]


def test_birth_and_will(register: Any, send: Send) -> None:
    device = register()
    birth = v1(device, None, session="s1", device_uuid=device.uuid)
    send((f"device/birth/{device.uuid}", birth))
    assert status(device)[0] == "ONLINE"
    stale = json.dumps({"device_uuid": device.uuid, "status": "OFFLINE", "session": "s0"}).encode()
    send((f"device/lwt/{device.uuid}", stale))
    assert status(device)[0] == "ONLINE", "an old connection's will changes nothing"
    current = stale.replace(b"s0", b"s1")
    send((f"device/lwt/status/{device.uuid}", current))
    assert status(device) == ("OFFLINE", [("UNKNOWN", "ONLINE", "birth"), ("ONLINE", "OFFLINE", "will")])
    send((topic(device), v1(device, VALUE)))
    assert status(device)[0] == "ONLINE"


@pytest.mark.parametrize("how", ["revoked", "ended"])
def test_the_will_of_a_device_without_a_valid_key_is_quarantined(register: Any, send: Send, how: str) -> None:
    device = register()
    send((topic(device), v1(device, VALUE)))
    with schema_context(device.tenant.schema_name):
        now = datetime.now(UTC)
        (key,) = device.device.credentials.all()
        key.revoked_at, key.not_after = (now, None) if how == "revoked" else (None, now)
        key.save()
    time.sleep(0.3)  # listeners read changes every 0.1 s
    send((f"device/lwt/{device.uuid}", json.dumps({"device_uuid": device.uuid, "status": "OFFLINE"}).encode()))
    assert status(device)[0] == "ONLINE"
    assert refused(device) == [("bad_signature", 1)]
    assert len(messages(device)) == 1, "nothing of it is in the permanent record"


def test_silence_becomes_a_timeout_and_the_next_message_ends_it(register: Any, send: Send) -> None:
    import time

    from devices.models import Device
    from devices.services.presence import health_checker

    device = register()
    with schema_context(device.tenant.schema_name):
        Device.objects.filter(pk=device.device.pk).update(timeout_seconds=1)
    send((topic(device), v1(device, VALUE)))
    health_checker.check()
    assert status(device)[0] == "ONLINE"
    time.sleep(1.1)
    health_checker.check()
    assert status(device)[0] == "TIMEOUT"
    send((topic(device), v1(device, {"temp": 2})))
    assert status(device)[1] == [
        ("UNKNOWN", "ONLINE", "telemetry"),
        ("ONLINE", "TIMEOUT", "timeout"),
        ("TIMEOUT", "ONLINE", "telemetry"),
    ]


def _event(device: Registered, reason: str, ago: float = 0.0, event: str = "client.disconnected") -> tuple[str, bytes]:
    import time

    body = {"event": event, "reason": reason, "clientid": device.uuid, "timestamp": (time.time() - ago) * 1000}
    return f"broker/event/{device.uuid}", json.dumps(body).encode()


@pytest.mark.parametrize(
    ("make", "shortened"),
    [
        (lambda d: _event(d, "keepalive_timeout", ago=-1), True),
        (lambda d: _event(d, "takenover", ago=-1), False),
        (lambda d: _event(d, "discarded", ago=-1), False),
        (lambda d: _event(d, "", event="client.connected", ago=-1), False),
        (lambda d: _event(d, "tcp_closed", ago=60), False),
        (lambda d: (f"broker/event/{d.uuid}", b"{"), False),
        (lambda d: (f"broker/event/{d.uuid}", b'{"event": "client.disconnected", "timestamp": "x"}'), False),
        (lambda d: ("broker/event/nobody", b"{}"), False),
    ],
    ids=["lost", "taken over", "discarded", "connected", "before it was heard", "not JSON", "no time", "no device"],
)
def test_a_brokers_event_shortens_the_wait_and_no_more(register: Any, send: Send, make: Any, shortened: bool) -> None:
    from django_redis import get_redis_connection

    device = register()
    send((topic(device), v1(device, VALUE)))
    send(make(device))
    member = f"{device.tenant.schema_name}:{device.uuid}"
    left = get_redis_connection("default").zscore("device_deadline", member) - datetime.now(UTC).timestamp()
    assert (left < 6) is shortened
    assert status(device)[0] == "ONLINE", "an event of the broker is not evidence"
    assert refused(device) == []
    send((topic(device), v1(device, {"temp": 3})))
    left = get_redis_connection("default").zscore("device_deadline", member) - datetime.now(UTC).timestamp()
    assert left > 50, "activity counts more"


def test_redis_away_costs_no_message(register: Any, send: Send, stack: Any) -> None:
    device = register()
    send((topic(device), v1(device, VALUE)))
    stack.stop_server("valkey")
    try:
        assert send((topic(device), v1(device, {"temp": 2}))).stored == 1
    finally:
        stack.start_server("valkey")
        wait_for_redis()
    assert send((topic(device), v1(device, {"temp": 3}))).stored == 1
    assert len(messages(device)) == 3


def test_reasons_of_the_stages_are_those_of_the_model() -> None:
    """The pure stages name reasons by text: each must be one that the quarantine knows."""
    import re

    from telemetry.models import Reason
    from tests.processes import ROOT

    used: set[str] = set()
    for path in (ROOT / "telemetry" / "services").rglob("*.py"):
        used |= set(re.findall(r'Refusal\(\s*"([a-z_]+)"', path.read_text()))
    assert used == set(Reason.values)


def test_a_key_that_has_just_been_issued_is_taken_before_it_is_told(
    register: Any, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener knows the device, and the news of its new key is on its way."""
    from devices import change_feeds
    from devices.services.provisioning.registration import rotate_key

    device = register()
    send((topic(device), v2(device, VALUE, seq=1)))
    monkeypatch.setattr(change_feeds, "spec_changes_since", lambda _newest: {})
    with schema_context(device.tenant.schema_name):
        issued = rotate_key(device.device)
    message = v2(device, VALUE, seq=2, secret=issued.secret, kid=str(issued.key_version))
    assert send((topic(device), message)).stored == 1
    assert refused(device) == []
