"""Messages over HTTP that do not prove their sender: copies, unsigned ones, and what their answers say."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django_redis import get_redis_connection

from telemetry.api.views import http_ingest as view
from tenants.infrastructure.throttling import SharedSecretThrottle
from tenants.services.limits import set_limits
from tests.api.client import Api
from tests.api.test_http_ingest import VALUE, own_throttle, quarantined, send, states, totals
from tests.factories import Registered, make_tenant, register_device, remove_tenant
from tests.payloads import topic, v1, v2

NOT_SIGNED = "The message does not have a valid signature of the device."


@pytest.fixture(autouse=True)
def _ended_thread(live_db: None, own_ingest_thread: Any) -> Iterator[None]:
    """The thread ends while the database can be used."""
    yield
    own_ingest_thread.close()


@pytest.fixture
def tenant(live_db: None) -> Iterator[Any]:
    redis = get_redis_connection("default")
    for key in redis.scan_iter("gwanje:limit*"):
        redis.delete(key)
    made = make_tenant("http-unproven")
    yield made
    remove_tenant(made)


@pytest.fixture
def device(tenant: Any) -> Registered:
    return register_device(tenant)


def receipts(answer: Any) -> list[tuple[str, str]]:
    return [(row["reason"], row["detail"]) for row in answer.json()["results"]]


@pytest.mark.parametrize("limits", [{"device_rate": 0.001, "device_burst": 3}, {"daily_quota": 3}])
@pytest.mark.parametrize("version", [1, 2])
def test_copies_use_up_no_limit(device: Registered, limits: dict[str, Any], version: int) -> None:
    set_limits(device.tenant, **limits)
    captured = v1(device, VALUE) if version == 1 else v2(device, VALUE, seq=1)
    assert states(send(device, captured, captured)) == ["stored", "duplicate"]
    assert states(send(device, *[captured] * 60)) == ["duplicate"] * 60
    own = [v1(device, VALUE, ago=n) if version == 1 else v2(device, VALUE, seq=n) for n in range(2, 5)]
    third = "quarantined" if "daily_quota" in limits else "limited"
    assert states(send(device, *own)) == ["stored", "stored", third]
    assert totals(device.tenant)["duplicates"] == 61


def test_copies_of_a_message_over_a_limit_share_its_result(device: Registered) -> None:
    set_limits(device.tenant, device_rate=0.001, device_burst=1)
    fresh = v2(device, VALUE, seq=1), v2(device, VALUE, seq=2)
    assert states(send(device, *fresh, *fresh)) == ["stored", "limited", "duplicate", "limited"]


def test_copies_on_another_topic_use_up_no_limit(device: Registered) -> None:
    set_limits(device.tenant, device_rate=0.001, device_burst=2)
    captured = v2(device, VALUE, seq=1)
    assert states(send(device, captured)) == ["stored"]
    other = topic(device).replace(device.uuid, device.uuid.upper())
    assert [reason for reason, _ in receipts(send(device, *[captured] * 20, topic=other))] == ["replayed"] * 20
    assert states(send(device, v2(device, VALUE, seq=2))) == ["stored"]


def test_copies_of_a_refused_message_do_not_brake_the_device(device: Registered, settings: Any) -> None:
    settings.TENANT_LIMITS = {**settings.TENANT_LIMITS, "device_refusal_rate": 0.5, "tenant_refusal_rate": 0.5}
    refused = v2(device, VALUE, seq=1, ago=-3600)
    for _ in range(3):
        answer = send(device, *[refused] * 30)
        assert {reason for reason, _ in receipts(answer)} == {"future_timestamp"}, answer.json()
    assert states(send(device, v2(device, VALUE, seq=2))) == ["stored"]


def test_copies_block_their_address(device: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = v2(device, VALUE, seq=1)
    assert states(send(device, captured)) == ["stored"]
    owner = view.failure_throttle
    monkeypatch.setattr(view, "failure_throttle", own_throttle(3))
    answers = [send(device, captured).status_code for _ in range(5)]
    assert answers == [202, 202, 202, 429, 429]
    monkeypatch.setattr(view, "failure_throttle", owner)
    assert states(send(device, v2(device, VALUE, seq=2))) == ["stored"]


def test_a_device_that_repeats_its_own_messages_is_not_blocked(
    device: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "failure_throttle", own_throttle(3))
    own = v2(device, VALUE, seq=1)
    assert states(send(device, own)) == ["stored"]
    for _ in range(6):
        assert states(send(device, own)) == ["duplicate"]
    assert states(send(device, v2(device, VALUE, seq=2))) == ["stored"]


def test_unknown_devices_block_their_address_in_all_processes(
    device: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test-{uuid4()}"
    processes = [SharedSecretThrottle(name, 4) for _ in range(2)]
    answers = []
    for number in range(6):
        monkeypatch.setattr(view, "failure_throttle", processes[number % 2])
        path, body = f"devices/{uuid4()}/messages/", {"messages": [{"topic": "", "payload": "{}"}]}
        unknown = path.split("/")[1]
        body["messages"][0]["topic"] = f"telemetry/{device.tenant.slug}/{unknown}/dht22"
        answers.append(Api(device.tenant.slug).post(path, body).status_code)
    assert answers == [404] * 4 + [429] * 2


def test_without_a_valid_signature_an_answer_says_nothing_of_the_device(device: Registered) -> None:
    assert states(send(device, v2(device, VALUE, seq=1))) == ["stored"]
    unsigned = b'{"timestamp": 1, "hmac": "AAAA"}'
    forged = v2(device, VALUE, seq=2, kid="7"), v2(device, VALUE, seq=2, secret="made up"), unsigned
    child = f"telemetry/{device.tenant.slug}/{device.uuid}/{uuid4()}/dht22"
    foreign = topic(device, segment="another-tenant")
    for answer in (send(device, *forged), send(device, *forged, topic=child), send(device, *forged, topic=foreign)):
        assert receipts(answer) == [("bad_signature", NOT_SIGNED)] * 3
    reasons = {reason for reason, _count in quarantined(device)}
    assert reasons == {"bad_signature", "downgraded_signature", "unknown_child"}, "the tenant sees the reasons"


def test_a_sender_with_the_key_is_told_what_to_correct(device: Registered) -> None:
    assert states(send(device, v2(device, VALUE, seq=1))) == ["stored"]
    [(reason, detail)] = receipts(send(device, v1(device, VALUE)))
    assert (reason, "version 2 before" in detail) == ("downgraded_signature", True)
    child = f"telemetry/{device.tenant.slug}/{device.uuid}/{uuid4()}/dht22"
    [(reason, detail)] = receipts(send(device, v2(device, VALUE, seq=2), topic=child))
    assert (reason, "is not a child" in detail) == ("unknown_child", True)
    [(reason, detail)] = receipts(send(device, v2(device, VALUE, seq=3), topic=topic(device, "pump")))
    assert (reason, "signed component" in detail) == ("bad_signature", True)


@pytest.mark.parametrize("left_out", ["a\x00b", 2**53 + 1])
def test_a_stored_message_says_that_values_were_left_out(device: Registered, left_out: Any) -> None:
    answer = send(device, v2(device, {**VALUE, "other": left_out}, seq=1))
    assert states(answer) == ["stored"]
    [(_, detail)] = receipts(answer)
    assert detail == "Values were left out (message_limit): the warnings of the device name the bounds."
