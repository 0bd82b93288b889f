"""Closing sessions at EMQX: the requests to its management API, and their order."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
from django_tenants.utils import schema_context

from devices.services.broker import accounts
from devices.services.broker.accounts import BrokerRefused, BrokerUnavailable


@dataclass
class ManagementApi:
    """Answers as EMQX 5.8.9's management API does, and keeps the requests."""

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    banned: set[str] = field(default_factory=set)
    broken: int = 0
    connected: list[str] = field(default_factory=list)
    when_asked: Callable[[], None] = lambda: None

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append((method, path, body))
        self.when_asked()
        if self.broken:
            return self.broken, {"code": "SERVICE_UNAVAILABLE"}
        if (method, path) == ("POST", "/api/v5/banned"):
            if body["who"] in self.banned:
                return 400, {"code": "ALREADY_EXISTS", "message": "…"}
            self.banned.add(body["who"])
            return 200, body
        if (method, path) == ("POST", "/api/v5/clients/kickout/bulk"):
            return 204, None
        if method == "GET" and path.startswith("/api/v5/clients?page="):
            page = int(path.partition("page=")[2].partition("&")[0])
            rows = self.connected[2 * page - 2 : 2 * page]  # EMQX may give fewer than asked for
            return 200, {
                "data": [{"clientid": name} for name in rows],
                "meta": {"hasnext": 2 * page < len(self.connected)},
            }
        if method == "DELETE" and path.startswith("/api/v5/banned/clientid/"):
            name = path.rpartition("/")[2]
            known = name in self.banned
            self.banned.discard(name)
            return (204, None) if known else (404, {"code": "NOT_FOUND"})
        return 404, {"code": "NOT_FOUND"}

    @property
    def steps(self) -> list[str]:
        return [f"{method} {path.removeprefix('/api/v5')}" for method, path, _ in self.asked]


@pytest.fixture
def api(settings: Any) -> Iterator[ManagementApi]:
    """EMQX's side, and a platform that knows no other broker."""
    state = ManagementApi()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            state.authorizations.add(self.headers["authorization"])
            length = int(self.headers.get("content-length") or 0)
            status, body = state.answer(self.command, self.path, json.loads(self.rfile.read(length) or "null"))
            self.send_response(status)
            self.end_headers()
            if body is not None:
                self.wfile.write(json.dumps(body).encode())

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 (the library's names)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    settings.MQTT_ADMIN_URL = ""
    settings.EMQX_API_URL = f"http://the%20key:the%20secret@127.0.0.1:{server.server_address[1]}/"
    yield state
    server.shutdown()
    server.server_close()


def test_a_revoked_device_is_banned_for_a_moment_and_then_thrown_out(api: ManagementApi) -> None:
    uuid = uuid4()
    accounts.revoke_devices([uuid])
    assert api.steps == ["POST /banned", "POST /clients/kickout/bulk"]
    ban, kicked = api.asked[0][2], api.asked[1][2]
    assert (ban["as"], ban["who"], ban["by"], ban["reason"]) == ("clientid", str(uuid), "gwanje", "revoked")
    ends = datetime.strptime(ban["until"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert 20 < (ends - datetime.now(UTC)).total_seconds() <= 30, "longer than a login takes, and not for ever"
    assert kicked == [str(uuid)]
    assert api.authorizations == {"Basic dGhlIGtleTp0aGUgc2VjcmV0"}


def test_many_are_thrown_out_together(api: ManagementApi) -> None:
    uuids = [uuid4() for _ in range(501)]
    accounts.disconnect(uuids)
    assert api.steps == ["POST /clients/kickout/bulk"] * 2
    assert [name for _, _, names in api.asked for name in names] == [str(uuid) for uuid in uuids]


def test_who_is_let_in_again_is_banned_no_more(api: ManagementApi) -> None:
    uuid = uuid4()
    accounts.allow_devices([uuid], False)
    accounts.allow_devices([uuid], False)  # while the ban lasts
    accounts.allow_devices([uuid], True)
    accounts.allow_devices([uuid], True)  # when there is none
    assert api.banned == set()
    assert api.steps[-1] == f"DELETE /banned/clientid/{uuid}"


def test_an_app_is_thrown_out_by_its_name(api: ManagementApi) -> None:
    accounts.grant_app("alpha", "gwj_0123456789", "the whole key")
    assert api.asked == [], "EMQX asks for apps itself"
    accounts.revoke_apps(["gwj_0123456789"])
    assert api.asked[1][2] == ["gwj_0123456789"]


def test_nobody_is_thrown_out_of_nothing(api: ManagementApi) -> None:
    accounts.revoke_devices([])
    accounts.disconnect([])
    accounts.grant_devices([(uuid4(), "password")])
    assert api.asked == []


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_refusal_is_said_without_the_secret(api: ManagementApi, status: int) -> None:
    api.broken = status
    with pytest.raises(BrokerRefused, match=f"EMQX responded {status}") as caught:
        accounts.revoke_devices([uuid4()])
    assert "secret" not in str(caught.value)


def test_emqx_away_is_said_without_the_secret(api: ManagementApi, settings: Any) -> None:
    settings.EMQX_API_URL = "http://key:thesecret@127.0.0.1:1"
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1") as caught:
        accounts.disconnect([uuid4()])
    assert "thesecret" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_the_database_says_it_before_emqx_does(api: ManagementApi, register: Any) -> None:
    """Otherwise who is thrown out is let in again."""
    from devices.models import Device
    from devices.services.broker.authentication import LoginAttempt, authenticate
    from devices.services.provisioning.activation import set_active
    from devices.services.provisioning.registration import remove_device

    device = register()
    login = LoginAttempt(device.uuid, device.uuid, device.mqtt_password)
    results: list[Any] = []

    def look() -> None:
        from django.db import connection

        results.append(authenticate([login])[0])
        connection.close()

    api.when_asked = look
    with schema_context(device.tenant.schema_name):
        set_active(device.device, False)
    assert api.steps == ["POST /banned", "POST /clients/kickout/bulk"]
    with schema_context(device.tenant.schema_name):
        set_active(device.device, True)
        remove_device(Device.objects.get(uuid=device.uuid))
    assert [result.allowed for result in results] == [False, False, True, False, False]
    assert api.steps[2:] == [f"DELETE /banned/clientid/{device.uuid}", "POST /banned", "POST /clients/kickout/bulk"]


def test_sessions_that_outlived_their_right_are_closed(api: ManagementApi, register: Any, tenant_b: Any) -> None:
    """Its tenant suspended, or removed while EMQX's management API was unavailable."""
    from devices.services.broker.synchronization import sync_broker
    from tenants.services.lifecycle import resume_tenant, suspend_tenant

    own, suspended, gone = register(), register(tenant=tenant_b), str(uuid4())
    api.connected = ["gwanje-listener", own.uuid, suspended.uuid, gone, "gwj_0123456789"]
    suspend_tenant(tenant_b, reason="test")
    try:
        assert sync_broker().closed == 3
    finally:
        resume_tenant(tenant_b)
    assert api.banned == set(api.asked[-1][2]) == {suspended.uuid, gone, "gwj_0123456789"}


def test_emqx_away_does_not_keep_a_device_registered(api: ManagementApi, register: Any) -> None:
    from devices.models import Device
    from devices.services.provisioning.registration import remove_device

    device = register()
    api.broken = 503
    with schema_context(device.tenant.schema_name):
        remove_device(device.device)
        assert not Device.objects.filter(uuid=device.uuid).exists()
