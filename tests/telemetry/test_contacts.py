"""Verified messages that do not count as activity are kept as contact, with what came and why it does not count."""

import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django_tenants.utils import schema_context

from tests.api.client import Api
from tests.factories import Registered, issue_key
from tests.payloads import topic, v1, v2
from tests.telemetry.test_ingest import Send, ingest, refused, send, status

__all__ = ["ingest", "send"]

VALUE = {"temp": 21.5, "humidity": 44}
HOUR = 3600


def contact(device: Registered) -> Any:
    """The device's contact, None without one."""
    from devices.models import DeviceContact

    with schema_context(device.tenant.schema_name):
        return DeviceContact.objects.filter(device=device.device).first()


def described(device: Registered) -> str:
    from devices.services.presence.contacts import describe_contact

    return describe_contact(contact(device))


LATE: dict[str, tuple[float, str]] = {
    "five hours": (5 * HOUR, "The clock is 5 h behind: a time zone?"),
    "nine hours": (9 * HOUR + 2, "The clock is 9 h behind: a time zone?"),
    "a zone of 45 minutes": (5.75 * HOUR, "The clock is 5 h 45 min behind: a time zone?"),
    "a buffer": (400, "behind, or the message has waited in the device."),
    "a fortnight": (14 * 24 * HOUR, "The clock is 14 d behind, or the message has waited in the device."),
}


@pytest.mark.parametrize(("ago", "text"), LATE.values(), ids=LATE)
def test_a_late_message_says_how_late_it_is(register: Any, send: Send, ago: float, text: str) -> None:
    device, now = register(), datetime.now(UTC)
    message = v1(device, VALUE, timestamp=(now - timedelta(seconds=ago)).isoformat())
    assert send((topic(device), message), received_at=now).stored == 1
    assert status(device) == ("UNKNOWN", [])
    found = contact(device)
    assert (found.reason, found.topic) == ("late", topic(device))
    assert found.received_at - found.device_time == timedelta(seconds=ago)
    assert described(device).endswith(text)


def _epoch_2000() -> float:
    return time.time() - 946_684_800


EARLY: dict[str, tuple[Any, str]] = {
    "1970 before NTP": (lambda: "1970-01-01T00:00:32Z", "The clock was not set: it began in 1970."),
    "an uptime": (lambda: 123456, "The clock was not set: it began in 1970."),
    "zero": (lambda: 0, "The clock was not set: it began in 1970."),
    "a clock that begins in 2000": (lambda: "2000-01-01T00:01:00Z", "The clock was not set: it began in 2000."),
    "the epoch of MicroPython": (_epoch_2000, "The clock counts from 2000 instead of 1970: add 946684800 seconds"),
    "Go's zero time": (lambda: "0001-01-01T00:00:00Z", "behind, or the message has waited in the device."),
    "relative": (lambda: -5, "behind, or the message has waited in the device."),
}


@pytest.mark.parametrize(("make", "text"), EARLY.values(), ids=EARLY)
def test_a_time_before_the_set_up_is_refused_with_its_own_reason(
    register: Any, send: Send, make: Any, text: str
) -> None:
    device = register()
    send((topic(device), v1(device, VALUE, timestamp=make())))
    assert refused(device) == [("past_timestamp", 1)]
    assert contact(device).reason == "past_timestamp"
    assert text in described(device)


def test_the_earliest_date_is_a_setting(register: Any, send: Send, settings: Any) -> None:
    settings.INGEST_EARLIEST_DATE = date(2026, 11, 1)
    device = register()
    send((topic(device), v1(device, VALUE, timestamp="2026-10-31T23:59:59Z")))
    send((topic(device), v1(device, VALUE, timestamp="2026-11-01T00:00:00Z")))
    assert refused(device) == [("past_timestamp", 1)]
    assert contact(device).reason == "late"


REFUSED: dict[str, tuple[Any, str]] = {
    "out of range": (lambda d: v1(d, {"temp": -127}), "out_of_range"),
    "a wrong type": (lambda d: v1(d, {"temp": "warm"}), "wrong_type"),
    "another board": (lambda d: v1(d, VALUE, cpu_serial="another"), "cpu_serial_mismatch"),
    "ahead": (lambda d: v1(d, VALUE, ago=-9 * HOUR), "future_timestamp"),
    "no timestamp that can be read": (lambda d: v1(d, VALUE, timestamp="yesterday"), "malformed"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_verified_message_that_is_refused_is_contact(register: Any, send: Send, make: Any, reason: str) -> None:
    device = register()
    send((topic(device), make(device)))
    assert refused(device) == [(reason, 1)]
    assert contact(device).reason == reason
    assert f"refused ({reason})" in described(device)


def test_a_clock_that_is_ahead_by_a_zone_is_named(register: Any, send: Send) -> None:
    device = register()
    send((topic(device), v1(device, VALUE, ago=-9 * HOUR)))
    assert described(device).endswith("The clock is 9 h ahead: a time zone?")


@pytest.mark.parametrize(
    "make",
    [
        lambda d: (topic(d), v1(d, VALUE, secret="another")),
        lambda d: (topic(d, "other"), v2(d, VALUE, seq=1)),  # a valid signature, of another topic
        lambda d: (f"device/lwt/{d.uuid}", b'{"status": "ONLINE"}'),
        lambda d: (topic(d), b"{"),
    ],
)
def test_what_is_not_verified_is_no_contact(register: Any, send: Send, make: Any) -> None:
    device = register()
    send(make(device))
    assert len(refused(device)) == 1
    assert contact(device) is None


def test_a_counter_that_is_used_again_is_contact(register: Any, send: Send) -> None:
    device = register()
    send((topic(device), v2(device, {"temp": 1}, seq=1)))
    send((topic(device), v2(device, {"temp": 2}, seq=1)))
    assert contact(device).reason == "replayed"


def test_the_newest_of_a_batch_is_kept_and_an_older_one_replaces_nothing(register: Any, send: Send) -> None:
    device, now = register(), datetime.now(UTC)
    send((topic(device), v1(device, {"temp": -127})), (topic(device), v1(device, VALUE, ago=HOUR)), received_at=now)
    first = contact(device)
    send((topic(device), v1(device, {"temp": -100})), received_at=now - timedelta(seconds=60))
    assert (contact(device).received_at, contact(device).reason) == (first.received_at, first.reason)


def test_a_message_again_is_no_newer_contact(register: Any, send: Send) -> None:
    device = register()
    late = topic(device), v1(device, VALUE, ago=HOUR)
    send(late)
    first = contact(device).received_at
    assert send(late).duplicates == 1
    assert contact(device).received_at == first


def test_another_tenants_device_has_its_own(register: Any, send: Send, tenant_b: Any) -> None:
    mine, other = register(), register(tenant=tenant_b)
    send((topic(mine), v1(mine, VALUE, ago=HOUR)), (topic(other), v1(other, {"temp": -127})))
    assert (contact(mine).reason, contact(other).reason) == ("late", "out_of_range")


def test_a_device_that_is_removed_meanwhile_does_not_stop_the_batch(register: Any, send: Send) -> None:
    from devices.models import Device

    gone, other = register(), register()
    send((topic(gone), b"{"), (topic(other), b"{"))  # both are in memory
    with schema_context(gone.tenant.schema_name):
        Device.objects.filter(pk=gone.device.pk).delete()
    late = v1(other, VALUE, ago=HOUR)
    send((topic(gone), v1(gone, VALUE, ago=HOUR)), (topic(other), late))
    assert contact(other).reason == "late"


# --- the API --------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(live_db: None, tenant_a: Any) -> Api:
    return Api(tenant_a.slug, key=issue_key(tenant_a, "read"))


def _listed(api: Api, **parameters: Any) -> set[str]:
    return {device["uuid"] for device in api.get("devices/", limit=200, **parameters).json()["results"]}


def test_a_device_that_is_refused_is_found_and_says_why(register: Any, send: Send, api: Api) -> None:
    device, silent = register(), register()
    send((topic(device), v1(device, VALUE, ago=5 * HOUR)))
    shown = api.get(f"devices/{device.uuid}/").json()
    assert (shown["status"], shown["last_seen_at"]) == ("UNKNOWN", None)
    assert shown["last_contact"]["reason"] == "late"
    assert round(shown["last_contact"]["clock_offset_seconds"] / HOUR) == -5
    assert "5 h behind: a time zone?" in shown["last_contact"]["description"]
    assert shown["last_contact"]["description"] in shown["status_description"]
    assert device.uuid in _listed(api, refused="true")
    assert silent.uuid in _listed(api, refused="false") - _listed(api, refused="true")
    assert api.get(f"devices/{silent.uuid}/").json()["last_contact"] is None

    send((topic(device), v1(device, VALUE)))
    assert api.get(f"devices/{device.uuid}/").json()["last_contact"] is None
    assert device.uuid not in _listed(api, refused="true")
    assert device.uuid in _listed(api, refused="false")


def test_a_contact_of_last_week_is_shown_but_is_not_sending(register: Any, send: Send, api: Api) -> None:
    device, before = register(), datetime.now(UTC) - timedelta(days=7)
    send((topic(device), v1(device, {"temp": -127}, ago=7 * 24 * HOUR)), received_at=before)
    assert api.get(f"devices/{device.uuid}/").json()["last_contact"]["reason"] == "out_of_range"
    assert device.uuid in _listed(api, refused="false")


def test_the_filter_takes_true_and_false_only(api: Api) -> None:
    assert api.get("devices/", refused="yes").status_code == 400


def test_contacts_cost_a_list_no_query(register: Any, send: Send, api: Api, count_queries: Any) -> None:
    first = register()
    api.get("devices/")  # caches
    before = count_queries(lambda: api.get("devices/", limit=200))
    send((topic(first), v1(first, {"temp": -127})))
    assert count_queries(lambda: api.get("devices/", limit=200)) == before


def test_a_claim_in_the_future_says_nothing_of_a_clock_that_is_right(register: Any, send: Send) -> None:
    device = register()
    send((topic(device), v2(device, VALUE, seq=1, nbf=int(time.time()) + 2 * HOUR)))
    assert contact(device).reason == "future_timestamp"
    assert "The clock is" not in described(device)
