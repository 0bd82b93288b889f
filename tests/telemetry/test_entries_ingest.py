"""Lists of entries on real servers: readings, series, hours to be rolled up again, newest values and counts."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_tenants.utils import schema_context

from tests.factories import Registered
from tests.payloads import token, topic
from tests.telemetry.quarantine import begin, step

Send = Callable[..., Any]


@pytest.fixture
def listed_type(live_db: None, tenant_a: Any) -> Any:
    """A component type whose messages have a list at `readings`, with a metric at `t` in each entry."""
    from devices.models import Component, ComponentType, Metric, Unit

    with schema_context(tenant_a.schema_name):
        made = ComponentType(
            key=f"list{datetime.now(UTC).timestamp():.6f}",
            name="of a test",
            list_path="readings",
            time_path="ts",
            invalid_values="refuse_message",
        )
        made.full_clean()
        made.save()
        celsius = Unit.objects.get(symbol="°C")
        Metric(component_type=made, key="temperature", path="t", unit=celsius, maximum=80).save()
    yield made
    with schema_context(tenant_a.schema_name):
        Component.objects.filter(component_type=made).delete()
        made.delete()


def _message(device: Registered, entries: Any, seq: int, **members: Any) -> tuple[str, bytes]:
    message = {
        "timestamp": datetime.now(UTC).isoformat(), "cpu_serial": device.device.cpu_serial,
        "device_uuid": device.uuid, "component": "x", "boot": 1, "seq": seq, "readings": entries, **members,
    }  # fmt: skip
    return topic(device, "x"), token(message, device.secret, device.kid)


def _rows(device: Registered) -> list[tuple[str, datetime, Any]]:
    from telemetry.models import Reading

    with schema_context(device.tenant.schema_name):
        rows = Reading.objects.filter(series__device=device.device).select_related("series")
        return sorted((row.series.metric, row.time, row.text or row.value) for row in rows)


def _late_hours(device: Registered) -> set[datetime]:
    from telemetry.models import LateHour

    with schema_context(device.tenant.schema_name):
        return set(LateHour.objects.filter(device_id=device.device.pk).values_list("hour", flat=True))


def settle_rollups(tenant: Any) -> None:
    """Let every hour until now be rolled up already, so that readings of it are late."""
    from telemetry.models import RollupState

    with schema_context(tenant.schema_name):
        RollupState.objects.update_or_create(defaults={"marked_until": datetime.now(UTC)})


def test_a_list_is_stored_as_its_readings_sent_one_by_one(
    tenant_a: Any, register: Any, send: Send, listed_type: Any
) -> None:
    settle_rollups(tenant_a)
    whole, single, shuffled = (register(components={"x": listed_type.key}, hardware_model=None) for _ in range(3))
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    entries = [
        {"ts": (begin + timedelta(minutes=minutes)).isoformat(), "t": 20 + minutes / 10, "rssi": -minutes}
        for minutes in (0, 1, 61, 62, 179, 1)
    ]
    result = send(_message(whole, entries, 1))
    assert (result.stored, result.quarantined, result.duplicates) == (1, 0, 0)
    for seq, entry in enumerate(entries, 1):
        send(_message(single, [entry], seq))
    send(_message(shuffled, entries[::-1], 1))
    assert len(_rows(whole)) == 10
    assert _rows(whole) == _rows(single) == _rows(shuffled)
    assert _late_hours(whole) == _late_hours(single) == _late_hours(shuffled)
    assert len(_late_hours(whole)) >= 2, "the hours of the entries, not of the message, are rolled up again"
    with schema_context(whole.tenant.schema_name):
        from telemetry.models import Message
        from telemetry.services.queries import readings as queries

        assert Message.objects.filter(device_id=whole.device.pk).count() == 1
        newest = {latest.metric: latest.value for latest in queries.latest_values(whole.device)}
        assert newest == {"temperature": 20 + 179 / 10, "rssi": -179.0}


def test_a_list_is_stored_once(register: Any, send: Send, listed_type: Any) -> None:
    device = register(components={"x": listed_type.key}, hardware_model=None)
    stamp = datetime.now(UTC).replace(microsecond=0)
    message = _message(device, [{"ts": stamp.isoformat(), "t": 20}], 1)
    assert send(message).stored == 1
    again = send(message, message)
    assert (again.stored, again.duplicates) == (0, 2)
    yesterday = (stamp - timedelta(days=1)).isoformat()
    other = _message(device, [{"ts": stamp.isoformat(), "t": 20}, {"ts": yesterday, "t": 5}], 2)
    assert send(other).stored == 1
    assert [row[2] for row in _rows(device)] == [5.0, 20.0], "a reading that is stored is not stored again"


def test_all_entries_are_stored_or_none(register: Any, send: Send, listed_type: Any) -> None:
    from telemetry.models import Quarantined

    device = register(components={"x": listed_type.key}, hardware_model=None)
    stamp = datetime.now(UTC).isoformat()
    result = send(_message(device, [{"ts": stamp, "t": 20}, {"ts": stamp, "t": 81}], 1))
    assert (result.stored, result.quarantined) == (0, 1)
    assert _rows(device) == []
    with schema_context(device.tenant.schema_name):
        [refused] = Quarantined.objects.filter(device=device.device)
        assert (refused.reason, refused.detail[:8]) == ("out_of_range", "Entry 2:")


def test_the_clock_of_an_entry_is_what_its_refusal_speaks_of(register: Any, send: Send, listed_type: Any) -> None:
    from devices.models import DeviceContact
    from devices.services.presence import contacts

    device = register(components={"x": listed_type.key}, hardware_model=None)
    ahead = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    send(_message(device, [{"ts": datetime.now(UTC).isoformat(), "t": 20}, {"ts": ahead, "t": 20}], 1))
    with schema_context(device.tenant.schema_name):
        contact = DeviceContact.objects.get(device=device.device)
    assert (contact.reason, contact.detail[:8]) == ("future_timestamp", "Entry 2:")
    assert round(contacts.clock_offset(contact) or 0, -2) == 7200
    assert contacts.describe_clock(contact) == "The clock is 2 h ahead: a time zone?"


def test_a_type_may_store_the_other_entries(register: Any, send: Send, ingest: Any, listed_type: Any) -> None:
    from telemetry.models import Quarantined

    device = register(components={"x": listed_type.key}, hardware_model=None)
    with schema_context(device.tenant.schema_name):
        listed_type.invalid_values = "refuse_value"
        listed_type.save()
    ingest.router._poll_at = 0.0
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    entries = [{"ts": (begin + timedelta(minutes=n)).isoformat(), "t": 79 + n} for n in range(4)]
    assert send(_message(device, entries, 1)).stored == 1
    assert [row[2] for row in _rows(device)] == [79.0, 80.0]
    with schema_context(device.tenant.schema_name):
        [refused] = Quarantined.objects.filter(device=device.device)
        assert refused.reason == "out_of_range"
        assert [text in refused.detail for text in ("Entry 1", "Entry 3", "Entry 4")] == [False, True, True]


def test_the_refused_values_of_a_list_are_replayed_and_counted_once(
    register: Any, send: Send, ingest: Any, listed_type: Any
) -> None:
    from telemetry.models import IngestTotals, Quarantined

    def counted() -> tuple[int, int, int]:
        rows = IngestTotals.objects.values_list("values_received", "values_stored", "values_quarantined")
        received, stored, refused = zip(*rows, strict=True)
        return sum(received), sum(stored), sum(refused)

    device = register(components={"x": listed_type.key}, hardware_model=None)
    with schema_context(device.tenant.schema_name):
        listed_type.invalid_values = "refuse_value"
        listed_type.save()
    ingest.router._poll_at = 0.0
    begun = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    entries = [{"ts": (begun + timedelta(minutes=n)).isoformat(), "t": 79 + n} for n in range(4)]
    send(_message(device, entries, 1))
    with schema_context(device.tenant.schema_name):
        before = counted()
        metric = listed_type.metrics.get()
        metric.maximum = None
        metric.save()
    done = step(device.tenant, begin(device.tenant, device=device.device))
    assert (done.stored, done.refused) == (1, {})
    assert [row[2] for row in _rows(device)] == [79.0, 80.0, 81.0, 82.0]
    with schema_context(device.tenant.schema_name):
        assert not Quarantined.objects.filter(device=device.device).exists()
        assert counted() == (before[0], before[1] + 1, before[2] - 1)


def test_a_thousand_entries_are_stored(register: Any, send: Send, listed_type: Any) -> None:
    device = register(components={"x": listed_type.key}, hardware_model=None)
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1000)
    entries = [{"ts": int(begin.timestamp()) + number, "t": number % 80} for number in range(1000)]
    assert send(_message(device, entries, 1)).stored == 1
    assert len(_rows(device)) == 1000


def test_the_time_of_messages_at_another_path(register: Any, send: Send, ingest: Any, listed_type: Any) -> None:
    device = register(components={"x": listed_type.key}, hardware_model=None)
    with schema_context(device.tenant.schema_name):
        listed_type.list_path, listed_type.time_path, listed_type.time_zone = "", "Time", "Asia/Seoul"
        listed_type.full_clean()
        listed_type.save()
    ingest.router._poll_at = 0.0
    moment = datetime.now(UTC).replace(microsecond=0)
    local = (moment + timedelta(hours=9)).replace(tzinfo=None).isoformat()
    message = {"Time": local, "t": 21, "device_uuid": device.uuid, "component": "x", "boot": 1, "seq": 1,
               "cpu_serial": device.device.cpu_serial}  # fmt: skip
    assert send((topic(device, "x"), token(message, device.secret, device.kid))).stored == 1
    assert _rows(device) == [("temperature", moment, 21.0)]
