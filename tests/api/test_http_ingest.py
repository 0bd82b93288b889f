"""Messages that devices send over HTTP: stored once, with the listener's checks, limits and presence."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.conf import LazySettings
from django_redis import get_redis_connection
from django_tenants.utils import schema_context
from psycopg import sql

from telemetry.api.views import http_ingest as view
from tenants.infrastructure.database import conninfo
from tenants.infrastructure.throttling import SharedSecretThrottle
from tenants.services.limits import set_limits
from tests.api.client import Api, problem_of, problems
from tests.devices.event_stream_client import Web
from tests.documents import FENCED, read
from tests.factories import Registered, make_tenant, register_device, remove_tenant
from tests.payloads import topic, v1, v2
from tests.processes import ROOT, run_at_once, wait_until

VALUE = {"temp": 21.5, "humidity": 44}


@pytest.fixture(autouse=True)
def _ended_thread(live_db: None, own_ingest_thread: Any) -> Iterator[None]:
    """The thread ends while the database can be used."""
    yield
    own_ingest_thread.close()


@pytest.fixture
def tenant(live_db: None) -> Iterator[Any]:
    made = make_tenant("http-ingest")
    yield made
    remove_tenant(made)


@pytest.fixture
def device(tenant: Any) -> Registered:
    return register_device(tenant)


def send(device: Registered, *payloads: bytes, slug: str = "", **changes: Any) -> Any:
    """The answer to the device's messages over HTTP."""
    sent = [{"topic": topic(device), "payload": payload.decode(), **changes} for payload in payloads]
    return Api(slug or device.tenant.slug).post(f"devices/{device.uuid}/messages/", {"messages": sent})


def states(answer: Any) -> list[str]:
    assert answer.status_code == 202, answer.content
    return [row["state"] for row in answer.json()["results"]]


def own_throttle(failures_per_minute: int) -> SharedSecretThrottle:
    """A throttle without failures yet."""
    return SharedSecretThrottle(f"test-{uuid4()}", failures_per_minute)


def stored(device: Registered) -> int:
    """The number of the device's stored messages; each must have its two readings."""
    from telemetry.models import Message, Reading

    with schema_context(device.tenant.schema_name):
        found = Message.objects.filter(device=device.device).count()
        assert Reading.objects.filter(series__device=device.device).count() == 2 * found
        return found


def totals(tenant: Any) -> dict[str, int]:
    from telemetry.models import IngestTotals

    with schema_context(tenant.schema_name):
        names = ("received", "stored", "duplicates", "quarantined", "rate_limited")
        return {
            name: sum(count)
            for name, count in zip(names, zip(*IngestTotals.objects.values_list(*names), strict=True), strict=False)
        }


def quarantined(device: Registered) -> list[tuple[str, int]]:
    from telemetry.models import Quarantined

    with schema_context(device.tenant.schema_name):
        return list(Quarantined.objects.filter(device=device.device).order_by("id").values_list("reason", "count"))


@pytest.mark.parametrize("version", [1, 2])
def test_a_message_is_stored_once_and_makes_its_device_online(device: Registered, version: int) -> None:
    payload = v1(device, VALUE) if version == 1 else v2(device, VALUE, seq=1)
    answer = send(device, payload)
    assert states(answer) == ["stored"]
    assert answer.json()["results"] == [
        {"state": "stored", "reason": "", "detail": "", "limit": "", "retry_after": None}
    ]
    assert states(send(device, payload, payload)) == ["duplicate", "duplicate"]
    assert stored(device) == 1
    with schema_context(device.tenant.schema_name):
        from devices.models import DeviceStatus
        from telemetry.models import Message

        assert DeviceStatus.objects.get(device=device.device).status == "ONLINE"
        [message] = Message.objects.all()
    assert (bytes(message.payload), message.topic, message.signature) == (payload, topic(device), version)


def test_each_message_of_a_request_has_its_own_answer(device: Registered) -> None:
    forged = v2(device, VALUE, seq=2, secret="not the device's")
    known = v2(device, VALUE, seq=1)
    future = v2(device, VALUE, seq=3, ago=-3600)
    answer = send(device, known, forged, future, known, v2(device, VALUE, seq=4, ago=3600))
    assert states(answer) == ["stored", "quarantined", "quarantined", "duplicate", "stored"]
    rows = answer.json()["results"]
    assert [row["reason"] for row in rows] == ["", "bad_signature", "future_timestamp", "", ""]
    assert all(row["detail"] for row in rows if row["reason"])
    assert sorted(quarantined(device)) == [("bad_signature", 1), ("future_timestamp", 1)]
    assert totals(device.tenant) == {
        "received": 5, "stored": 2, "duplicates": 1, "quarantined": 2, "rate_limited": 0,
    }  # fmt: skip


def test_the_same_messages_over_mqtt_and_http_at_once_are_stored_once(device: Registered) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    listener = build_pipeline()
    messages = [v2(device, VALUE, seq=seq, ago=100 - seq) for seq in range(1, 41)]

    def over_mqtt() -> None:
        for payload in messages:
            result = listener.process([Incoming(topic(device), payload, datetime.now(UTC))])
            while not result.to_acknowledge:  # the tenant was locked by the other writer
                result = listener.retry_blocked()

    def over_http() -> None:
        for begin in range(0, 40, 4):
            while send(device, *messages[begin : begin + 4]).status_code == 503:
                pass  # the tenant was locked by the other writer

    try:
        run_at_once([over_mqtt, over_http])
    finally:
        listener.close()
    assert stored(device) == 40
    assert quarantined(device) == []
    counted = totals(device.tenant)
    assert counted["stored"] == 40
    assert counted["duplicates"] == counted["received"] - 40


def test_a_device_of_another_tenant_is_as_unknown_as_one_made_up(device: Registered, tenant_b: Any) -> None:
    stranger = register_device(tenant_b)
    for answer in (
        send(stranger, v1(stranger, VALUE), slug=device.tenant.slug),
        Api("http-ingest").post(
            "devices/6d1f6a3e-5f0e-4c53-9d68-0a6f0c8a1f11/messages/",
            {"messages": [{"topic": "telemetry/x/6d1f6a3e-5f0e-4c53-9d68-0a6f0c8a1f11/dht22", "payload": "{}"}]},
        ),
    ):
        assert (answer.status_code, problem_of(answer)["code"]) == (404, "not_found")
    assert stored(stranger) == 0
    assert totals(device.tenant) == {}
    assert send(device, b"{}", slug="no-such-tenant").status_code == 404


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"topic": "device/birth/{uuid}", "payload": "{}"}]}, "messages.0.topic"),
        ({"messages": [{"topic": "device/lwt/{uuid}", "payload": "{}"}]}, "messages.0.topic"),
        ({"messages": [{"topic": "nonsense", "payload": "{}"}]}, "messages.0.topic"),
        (
            {"messages": [{"topic": "telemetry/x/6d1f6a3e-5f0e-4c53-9d68-0a6f0c8a1f11/dht22", "payload": "{}"}]},
            "messages.0.topic",
        ),
        ({"messages": [{"topic": "telemetry/x/{uuid}/dht22", "payload": {"value": 1}}]}, "messages.0.payload"),
        ({"messages": [{"topic": "telemetry/x/{uuid}/dht22", "payload": "{}", "qos": 1}]}, "messages.0.qos"),
        ({"messages": [{"topic": "telemetry/x/{uuid}/dht22"}]}, "messages.0.payload"),
        ({}, "messages"),
    ],
)
def test_a_wrong_body_is_refused_by_its_member(device: Registered, body: Any, where: str) -> None:
    text = json.dumps(body).replace("{uuid}", device.uuid)
    answer = Api(device.tenant.slug).post(f"devices/{device.uuid}/messages/", json.loads(text))
    assert answer.status_code == 400
    assert where in problems(answer)
    assert totals(device.tenant) == {}


def test_a_locked_tenant_is_answered_503_and_nothing_is_stored(device: Registered) -> None:
    send(device, v2(device, VALUE, seq=1))
    table = sql.Identifier(device.tenant.schema_name, "telemetry_message")
    with psycopg.connect(conninfo()) as other:
        other.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
        answer = send(device, v2(device, VALUE, seq=2), v2(device, VALUE, seq=3))
        assert (answer.status_code, problem_of(answer)["code"]) == (503, "tenant_unavailable")
        assert int(answer["Retry-After"]) > 0
        other.rollback()
    assert stored(device) == 1
    answer = wait_until(
        lambda: (again := send(device, v2(device, VALUE, seq=2), v2(device, VALUE, seq=3))).status_code == 202 and again
    )
    assert states(answer) == ["stored", "stored"]
    with schema_context("public"):
        from tenants.models import OverflowMessage

        assert not OverflowMessage.objects.filter(schema_name=device.tenant.schema_name).exists()


def test_a_faulty_tenant_is_answered_503_until_it_is_mended(device: Registered, register: Any) -> None:
    schema = sql.Identifier(device.tenant.schema_name)

    def rename(old: str, new: str) -> None:
        with psycopg.connect(conninfo(), autocommit=True) as own:
            own.execute(
                sql.SQL("ALTER TABLE {}.{} RENAME TO {}").format(schema, sql.Identifier(old), sql.Identifier(new))
            )

    send(device, v2(device, VALUE, seq=1))
    rename("telemetry_message", "gone")
    answer = send(device, v2(device, VALUE, seq=2))
    assert (answer.status_code, problem_of(answer)["code"]) == (503, "tenant_unavailable")
    neighbour = register()
    assert states(send(neighbour, v2(neighbour, VALUE, seq=1))) == ["stored"]
    rename("gone", "telemetry_message")
    wait_until(lambda: send(device, v2(device, VALUE, seq=2)).status_code == 202)
    assert stored(device) == 2


def test_without_the_key_nothing_is_stored(device: Registered, settings: LazySettings) -> None:
    settings.VAULT_ADDR = "http://127.0.0.1:1"
    answer = send(device, v2(device, VALUE, seq=1))
    assert (answer.status_code, problem_of(answer)["code"]) == (503, "vault_unavailable")
    assert int(answer["Retry-After"]) > 0
    assert (stored(device), quarantined(device), totals(device.tenant)) == (0, [], {})


def test_a_message_over_a_rate_is_counted_and_names_the_limit(device: Registered) -> None:
    redis = get_redis_connection("default")
    for key in redis.scan_iter("gwanje:limit*"):
        redis.delete(key)
    set_limits(device.tenant, device_rate=0.001, device_burst=2)
    answer = send(device, *[v2(device, VALUE, seq=seq) for seq in range(1, 5)])
    assert states(answer) == ["stored", "stored", "limited", "limited"]
    assert [(row["limit"], row["retry_after"] is None) for row in answer.json()["results"]] == [
        ("", True), ("", True), ("device_rate", False), ("device_rate", False),
    ]  # fmt: skip
    assert int(answer["Retry-After"]) > 0
    assert totals(device.tenant)["rate_limited"] == 2


def test_forged_messages_block_their_address_and_not_the_device(
    device: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "failure_throttle", own_throttle(30))
    neighbour = register_device(device.tenant)
    assert states(send(device, v2(device, VALUE, seq=1))) == ["stored"]
    # More than the rate of refusals of a device (20 a second with a burst of 10 s) in two requests.
    forged = [v2(neighbour, VALUE, seq=seq, secret="made up") for seq in range(1, 121)]
    first = send(neighbour, *forged[:60])
    assert [row["limit"] for row in first.json()["results"]] == [""] * 30 + ["address_failures"] * 30
    assert sum(count for _reason, count in quarantined(neighbour)) == 30, "as many as the address may send"
    assert send(neighbour, *forged[60:]).status_code == 429
    answer = send(neighbour, v2(neighbour, VALUE, seq=500))
    assert (answer.status_code, problem_of(answer)["code"]) == (429, "throttled")
    assert int(answer["Retry-After"]) > 0
    assert states(send(device, v2(device, VALUE, seq=2))) == ["stored"], "it sent a valid message from there before"
    monkeypatch.setattr(view, "failure_throttle", own_throttle(30))
    assert states(send(neighbour, v2(neighbour, VALUE, seq=500))) == ["stored"], "another address: not braked"


def test_refusals_of_the_device_itself_brake_it(device: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "failure_throttle", own_throttle(1))
    sent = 0
    while True:
        batch = [v2(device, VALUE, seq=sent + n, component="pump") for n in range(1, 101)]
        answer = send(device, *batch, topic=topic(device, "pump"))
        sent += 100
        if "limited" in states(answer):
            break
        assert sent < 3000
    row = next(row for row in answer.json()["results"] if row["state"] == "limited")
    assert row["limit"] == "device_refusal_rate"
    assert totals(device.tenant)["received"] == sent


def test_a_web_server_killed_before_the_commit_has_stored_nothing(device: Registered, tmp_path: Path) -> None:
    schema = sql.Identifier(device.tenant.schema_name)
    with psycopg.connect(conninfo(), autocommit=True) as own:
        own.execute(
            sql.SQL(
                "CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_sleep(3600); RETURN NEW; END $$;"
                "CREATE TRIGGER wait BEFORE INSERT ON {schema}.telemetry_message FOR EACH ROW"
                " EXECUTE FUNCTION {schema}.wait()"
            ).format(schema=schema)
        )
        payload = v2(device, VALUE, seq=1)
        web = Web(tmp_path / "web.log")
        try:
            sending = _curl(web, device, payload)
            wait_until(lambda: _sleeping(own))
            web.process.kill()
            assert sending.wait() != 0, "it got no answer"
        finally:
            web.process.stop()
        own.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        wait_until(lambda: not _sleeping(own))
        own.execute(sql.SQL("DROP TRIGGER wait ON {}.telemetry_message").format(schema))
    assert stored(device) == 0
    web = Web(tmp_path / "web.log")
    try:
        assert _curl(web, device, payload).wait() == 0
    finally:
        web.process.stop()
    assert stored(device) == 1
    assert totals(device.tenant)["received"] == 1


def _sleeping(connection: psycopg.Connection) -> list[Any]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'gwanje-ingest' AND wait_event = 'PgSleep'"
    return connection.execute(query).fetchall()


def _curl(web: Web, device: Registered, payload: bytes) -> "subprocess.Popen[bytes]":
    body = json.dumps({"messages": [{"topic": topic(device), "payload": payload.decode()}]})
    url = f"http://127.0.0.1:{web.port}/t/{device.tenant.slug}/api/v1/devices/{device.uuid}/messages/"
    command = ["curl", "-sS", "--fail", "-H", "Content-Type: application/json", url, "-d", body]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def web(live_db: None, tmp_path: Path) -> Iterator[Callable[[], Web]]:
    server = Web(tmp_path / "web.log")
    yield lambda: server
    server.process.stop()


def test_the_example_of_the_guide_stores_a_message(web: Callable[[], Web], device: Registered, tmp_path: Path) -> None:
    script = ROOT / "docs" / "examples" / "send_http.sh"
    assert script.read_text() in [code for _, code in FENCED.findall(read("docs/device-guide.md"))]
    values = {
        "TENANT_URL": f"http://127.0.0.1:{web().port}/t/{device.tenant.slug}/",
        "TENANT": device.tenant.slug,
        "DEVICE": device.uuid,
        "SECRET": device.secret,
        "KID": device.kid,
        "CPU_SERIAL": device.device.cpu_serial,
        "BOOT_FILE": str(tmp_path / "boot"),
    }
    for _ in range(2):  # also twice in one second
        done = subprocess.run(["/bin/sh", str(script)], env={**os.environ, **values}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert states_of(done.stdout) == ["stored"]
    with schema_context(device.tenant.schema_name):
        from telemetry.models import Message

        assert Message.objects.filter(device=device.device).count() == 2


def states_of(text: str) -> list[str]:
    return [row["state"] for row in json.loads(text)["results"]]
