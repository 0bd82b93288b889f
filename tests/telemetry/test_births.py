"""A connection counts by its arrival: a birth with a wrong clock begins a session, and its will counts."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_tenants.utils import schema_context

from tests import payloads
from tests.api.client import Api
from tests.factories import Registered, issue_key
from tests.payloads import topic, v1, v2
from tests.telemetry.test_ingest import Send, ingest, refused, send, status

__all__ = ["ingest", "send"]

VALUE = {"temp": 21.5, "humidity": 44}
WEEK = 7 * 86400
# A Pi without a clock of its own, a zone, MicroPython's epoch, 1970, and a clock that is ahead.
WRONG_CLOCKS: dict[str, float] = {
    "two weeks behind": 2 * WEEK,
    "five hours behind": 5 * 3600,
    "six minutes behind": 360,
    "a day ahead": -86400,
    "twenty years ahead": -20 * 365 * 86400,
    "before the platform was set up": 30 * 365 * 86400,
}


def birth(device: Registered, session: str, *, ago: float = 0.0, version: int = 2) -> tuple[str, bytes]:
    if version == 1:
        return f"device/birth/{device.uuid}", v1(device, None, session=session, device_uuid=device.uuid, ago=ago)
    members = {"device_uuid": device.uuid, "session": session, "timestamp": payloads.timestamp(ago)}
    return f"device/birth/{device.uuid}", payloads.token(members, device.secret, device.kid)


def will(device: Registered, session: str) -> tuple[str, bytes]:
    body = {"device_uuid": device.uuid, "status": "OFFLINE", "session": session}
    return f"device/lwt/{device.uuid}", json.dumps(body).encode()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ago", WRONG_CLOCKS.values(), ids=WRONG_CLOCKS)
def test_the_will_of_a_session_that_began_with_a_wrong_clock_counts(
    register: Any, send: Send, ago: float, version: int
) -> None:
    device = register()
    send(birth(device, "boot1", version=version))
    send(birth(device, "boot2", ago=ago, version=version))
    send((topic(device), v2(device, VALUE, seq=1) if version == 2 else v1(device, VALUE)))
    send(will(device, "boot1"))
    assert status(device)[0] == "ONLINE", "the connection of boot1 is an old one"
    send(will(device, "boot2"))
    assert status(device) == ("OFFLINE", [("UNKNOWN", "ONLINE", "birth"), ("ONLINE", "OFFLINE", "will")])


def test_a_session_that_began_with_a_right_clock_ends_one_with_a_wrong_clock(register: Any, send: Send) -> None:
    device = register()
    send(birth(device, "boot1", ago=2 * WEEK), birth(device, "boot2"), will(device, "boot1"))
    assert status(device)[0] == "ONLINE"
    send(will(device, "boot2"))
    assert status(device)[0] == "OFFLINE"


def test_a_birth_with_a_wrong_clock_in_the_future_is_refused_all_the_same(register: Any, send: Send) -> None:
    """Its time would need partitions of its own; its session begins."""
    device = register()
    send(birth(device, "boot1", ago=-86400))
    assert refused(device) == [("future_timestamp", 1)]
    assert status(device) == ("ONLINE", [("UNKNOWN", "ONLINE", "birth")])


def test_a_late_birth_that_is_redelivered_is_no_new_activity(register: Any, send: Send) -> None:
    device, before = register(), datetime.now(UTC) - timedelta(seconds=100)
    late = birth(device, "boot1", ago=2 * WEEK)
    send(late, received_at=before)
    send(will(device, "boot1"), received_at=before + timedelta(seconds=50))
    assert status(device)[0] == "OFFLINE"
    assert send(late).duplicates == 1
    assert status(device)[0] == "OFFLINE"


@pytest.mark.parametrize("forge", [{"secret": "another"}, {"cpu_serial": "another"}], ids=str)
def test_a_birth_that_is_not_the_devices_begins_nothing(register: Any, send: Send, forge: dict[str, str]) -> None:
    device = register()
    message = v1(device, None, session="forged", device_uuid=device.uuid, ago=-86400, **forge)
    send((f"device/birth/{device.uuid}", message))
    assert status(device)[0] == "UNKNOWN"
    assert len(refused(device)) == 1


def details(device: Registered) -> list[tuple[str, str]]:
    from telemetry.models import Quarantined

    with schema_context(device.tenant.schema_name):
        return list(Quarantined.objects.filter(device=device.device).values_list("reason", "detail"))


@pytest.fixture
def api(live_db: None, tenant_a: Any) -> Api:
    return Api(tenant_a.slug, key=issue_key(tenant_a, "read"))


def signed_birth(device: Registered, **members: Any) -> tuple[str, bytes]:
    body = {"device_uuid": device.uuid, "session": "boot1", "timestamp": payloads.timestamp(), **members}
    return f"device/birth/{device.uuid}", payloads.token(body, device.secret, device.kid)


def test_a_birth_without_the_serial_is_of_older_firmware_and_its_hardware_is_checked(register: Any, send: Send) -> None:
    device = register()
    send(signed_birth(device, hardware_version="another"))
    assert (status(device)[0], [reason for reason, _ in details(device)]) == ("UNKNOWN", ["hardware_version_mismatch"])
    send(signed_birth(device, seq=2, boot=1))
    assert status(device)[0] == "ONLINE"


def test_the_detail_of_a_birth_with_a_fast_clock_names_its_session(register: Any, send: Send) -> None:
    device = register()
    send(birth(device, "boot1", ago=-3600))
    assert status(device)[0] == "ONLINE"
    [(reason, detail)] = details(device)
    assert reason == "future_timestamp"
    assert detail.endswith(" Set the device's clock. The birth counts nevertheless: its session 'boot1' begins.")


def test_the_description_names_the_session_whose_will_counts(register: Any, send: Send, api: Api) -> None:
    device = register()

    def described() -> str:
        return str(api.get(f"devices/{device.uuid}/").json()["status_description"])

    send(birth(device, "F1"))
    assert described().endswith(" Session F1.")
    send(birth(device, "P1"))
    assert described().endswith(" Session F1; the current session is P1.")
    send(will(device, "P1"))
    assert described().endswith(" Session P1.")
