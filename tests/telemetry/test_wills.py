"""A body on the topic of wills counts as a will only where it says that the device is gone."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_tenants.utils import schema_context
from hypothesis import given
from hypothesis import strategies as st

from telemetry.services.pipeline import form, wills
from telemetry.services.pipeline.results import Refusal
from tests.factories import Registered
from tests.payloads import topic, v1
from tests.processes import wait_until
from tests.telemetry.test_ingest import Send, ingest, refused, send, status

__all__ = ["ingest", "send"]

UUID = "6d1f0000-0000-4000-8000-000000000001"
TOPIC = form.parse_topic(f"device/lwt/{UUID}")
VALUE = {"temp": 21.5, "humidity": 44}

GONE = [
    {"status": "OFFLINE"},
    {"device_status": "offline"},
    {"state": "offline"},
    {"online": False},
    {"status": "Disconnected"},
    {"state": "lost"},
    {"online": 0},
    {"connected": False},
    {"status": "offline", "online": False},
    {"status": "offline", "online": None},
]
NOT_GONE = [
    {"status": "ONLINE"},
    {"status": "ONLINE", "session": "s1"},
    {"status": "online"},
    {"state": "online"},
    {"online": True},
    {},
    {"session": "s1"},
    {"device_uuid": UUID},
    {"status": None},
    {"status": "sleeping"},
    {"status": ""},
    {"status": ["OFFLINE"]},
    {"online": 1},
    {"online": "true"},
    {"connected": True},
    {"status": "OFFLINE", "online": True},
    {"value": {"status": "OFFLINE"}},
]
GONE_TEXTS = [
    b"Offline",
    b"offline",
    b"false",
    b'"offline"',
    b"",
    b"0",
    b" Offline\n",
    b"DISCONNECTED",
    b"lost",
    b"off\x6cine\0",
]
PRESENT_TEXTS = [b"Online", b"online", b"true", b"1", b'"ONLINE"', b"connected", b"ready\n"]


def parse(body: bytes, *, text_wills: bool = False) -> str:
    """Return the reason of the refusal, empty for a will."""
    try:
        wills.parse_will(TOPIC, body, text_wills=text_wills)
    except Refusal as refusal:
        return refusal.reason
    return ""


@pytest.mark.parametrize("members", GONE, ids=json.dumps)
def test_what_says_gone_is_a_will(members: dict[str, Any]) -> None:
    assert parse(json.dumps(members).encode()) == ""


@pytest.mark.parametrize("members", NOT_GONE, ids=json.dumps)
def test_what_says_something_else_or_nothing_is_no_will(members: dict[str, Any]) -> None:
    assert parse(json.dumps(members).encode()) == "not_a_will"
    assert parse(json.dumps(members).encode(), text_wills=True) == "not_a_will"


@pytest.mark.parametrize("body", GONE_TEXTS)
def test_fixed_texts_are_wills_where_the_hardware_model_says_so(body: bytes) -> None:
    assert parse(body) == "not_a_will"
    assert parse(body, text_wills=True) == ""


@pytest.mark.parametrize("body", PRESENT_TEXTS)
def test_a_text_that_says_present_is_never_a_will(body: bytes) -> None:
    assert parse(body) == parse(body, text_wills=True) == "not_a_will"


@pytest.mark.parametrize("body", [b"T=21.5", b"\xff\xfe", b"[1]", b"{", b"off" * 40])
def test_other_bodies_are_refused(body: bytes) -> None:
    assert parse(body) == "malformed"
    assert parse(body, text_wills=True) in ("malformed", "not_a_will")


@given(
    st.dictionaries(
        st.sampled_from([*wills.STATUS_MEMBERS, "session"]),
        st.sampled_from(["OFFLINE", "ONLINE", True, False, None, 0, 1, 0.0, "x", [], {}]),
    ),
    st.booleans(),
)
def test_a_will_never_says_anything_but_gone(members: dict[str, Any], text_wills: bool) -> None:
    said = [value for name, value in members.items() if name != "session" and value is not None]
    gone = all(value == "OFFLINE" or (isinstance(value, bool | int | float) and not value) for value in said)
    assert (parse(json.dumps(members).encode(), text_wills=text_wills) == "") == (bool(said) and gone)


# --- through the pipeline -------------------------------------------------------------------------------------------


@pytest.fixture
def tasmota(register: Callable[..., Registered]) -> Registered:
    """A device whose hardware model accepts texts as wills."""
    from devices.models import HardwareModel

    registered = register()
    with schema_context(registered.tenant.schema_name):
        model = HardwareModel.objects.create(name=f"text {registered.uuid}", version="1", text_wills=True)
        registered.device.hardware_model = model
        registered.device.save()
    return registered


@pytest.mark.parametrize("body", [b'{"status":"ONLINE"}', b'{"online":true}', b"{}", b"Online", b"Offline"])
def test_a_device_that_is_present_stays_online(register: Any, send: Send, body: bytes) -> None:
    device = register()
    send((topic(device), v1(device, VALUE)))
    send((f"device/lwt/{device.uuid}", body))
    assert status(device) == ("ONLINE", [("UNKNOWN", "ONLINE", "telemetry")])
    assert refused(device) == [("not_a_will", 1)]


@pytest.mark.parametrize("body", [b"Offline", b"false", b""])
def test_a_fixed_text_makes_a_device_offline_where_its_model_says_so(tasmota: Any, send: Send, body: bytes) -> None:
    from devices.services.presence import health_checker

    # Without a session, a will is ignored while telemetry arrives around it.
    before = datetime.now(UTC) - timedelta(seconds=10)
    send((topic(tasmota), v1(tasmota, VALUE, ago=10)), received_at=before)
    send((f"device/lwt/{tasmota.uuid}", b"Online"))
    assert status(tasmota)[0] == "ONLINE"
    send((f"device/lwt/{tasmota.uuid}", body))
    wait_until(lambda: (health_checker.check(), status(tasmota)[0])[1] == "OFFLINE", 60)
    assert refused(tasmota) == [("not_a_will", 1)]
