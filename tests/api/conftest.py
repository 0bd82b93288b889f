"""Clients of a tenant's API, and rows to read back."""

import datetime
import threading
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, connections
from django.test import Client
from django.test.client import ClientHandler
from django.utils import timezone
from django_tenants.utils import schema_context

T0 = datetime.datetime(2026, 11, 22, 9, 30, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


# One for all clients: each loads the middleware, which lists all static files.
HANDLER = ClientHandler(enforce_csrf_checks=False)


class Api:
    """A client of one tenant's API, by key, by session, or as nobody."""

    def __init__(self, slug: str, *, key: str = "", user: Any = None) -> None:
        self.root = f"/t/{slug}/api/v1/"
        self._client = Client(headers={"Authorization": f"Bearer {key}"} if key else None)
        self._client.handler = HANDLER
        if user is not None:
            with schema_context("public"):
                self._client.force_login(user)

    def send(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The answer to a request; `path` below api/v1/, or an address that an answer gave."""
        address = path if path.startswith(("/", "http")) else self.root + path
        kwargs: dict[str, Any] = {"query_params": query} if query else {}
        if body is not None:
            kwargs |= {"data": body, "content_type": "application/json"}
        return getattr(self._client, method.lower())(address, **kwargs)

    def get(self, path: str, **query: Any) -> Any:
        return self.send("get", path, **query)

    def post(self, path: str, body: Any = None) -> Any:
        return self.send("post", path, {} if body is None else body)

    def patch(self, path: str, body: Any) -> Any:
        return self.send("patch", path, body)

    def delete(self, path: str) -> Any:
        return self.send("delete", path)


def problems(answer: Any) -> dict[str | None, str]:
    """What an error answer says, by member or parameter; checks its shape."""
    document = answer.json()
    assert document.keys() == {"type", "errors"}, document
    assert document["type"] in ("validation_error", "client_error", "server_error")
    assert all(error.keys() == {"code", "detail", "attr"} for error in document["errors"])
    return {error["attr"]: error["detail"] for error in document["errors"]}


def issue_key(tenant: Any, scope: str = "write", **options: Any) -> str:
    """A key of the tenant; `expires_at`, or `revoked=True`."""
    from devices.services.api_keys import issue_api_key, revoke_api_key

    with schema_context(tenant.schema_name):
        revoked = options.pop("revoked", False)
        key, text = issue_api_key(name=f"a {scope} key", scope=scope, **options)
        if revoked:
            revoke_api_key(key)
    return text


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the calls return, each made by a thread of its own and at the same time."""
    answers: list[Any] = []
    barrier = threading.Barrier(max(1, len(calls)))

    def run(call: Any) -> None:
        barrier.wait()
        try:
            answers.append(call())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def person(name: str, tenant: Any = None, role: str = "", **flags: Any) -> Any:
    """A user, with a role in a tenant where one is given."""
    from tenants.models import Membership, User

    user = User.objects.create_user(username=name, **flags)
    if tenant is not None:
        Membership.objects.create(user=user, tenant=tenant, role=role)
    return user


def make_device(tenant: Any, name: str = "a device", **components: str) -> Any:
    """A device with components (key → type), as rows only: no secret, no account at the broker."""
    from devices.models import Component, ComponentType, Device, DeviceCredential, DeviceStatus
    from tenants.models import DeviceRoute

    with schema_context(tenant.schema_name):
        device = Device.objects.create(name=name)
        DeviceStatus.objects.create(device=device)
        DeviceRoute.objects.create(device_uuid=device.uuid, tenant=tenant)
        DeviceCredential.objects.create(device=device, version=1)
        for key, component_type in components.items():
            Component.objects.create(
                device=device, key=key, component_type=ComponentType.objects.get(key=component_type)
            )
    return device


def add_series(tenant: Any, device: Any, component: str, metric: str, unit: str, kind: str = "number") -> int:
    """A series' id."""
    from telemetry.models import Series

    with schema_context(tenant.schema_name):
        return Series.objects.create(device=device, component=component, metric=metric, unit=unit, value_type=kind).pk


def add_readings(tenant: Any, series: int, *rows: tuple[datetime.datetime, Any]) -> None:
    """Readings (time, number | bool | text) of a series, by SQL."""
    with schema_context(tenant.schema_name), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO telemetry_reading (series_id, time, value, text) VALUES (%s, %s, %s, %s)",
            [(series, time, *((None, v) if isinstance(v, str) else (float(v), None))) for time, v in rows],
        )


def add_message(
    tenant: Any, device: Any, time: datetime.datetime, payload: bytes = b"{}", mark: UUID | None = None
) -> None:
    """A message as received, by SQL."""
    with schema_context(tenant.schema_name), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO telemetry_message (device_id, time, fingerprint, received_at, topic, payload, signature,"
            " key_version, late) VALUES (%s, %s, %s, %s, %s, %s, 1, 1, false)",
            [device.pk, time, mark or uuid4(), time, f"telemetry/{tenant.slug}/{device.uuid}/dht22", payload],
        )


def add_change(tenant: Any, device: Any, status: str, cause: str, at: datetime.datetime, **fields: Any) -> Any:
    """A row of the ledger, recorded at `at`; the device's state is set with it."""
    from devices.models import DeviceStatus, StatusChange

    with schema_context(tenant.schema_name):
        state = DeviceStatus.objects.get(device=device)
        before, state.status, state.cause, state.since = state.status, status, cause, at
        state.save()
        return StatusChange.objects.create(
            device=device,
            from_status=before,
            to_status=status,
            cause=cause,
            at=at,
            **{"evidence_at": at, **fields},
        )


def quarantine(tenant: Any, received: datetime.datetime, reason: str = "bad_signature", **fields: Any) -> Any:
    """A refused message."""
    from telemetry.models import Quarantined

    with schema_context(tenant.schema_name):
        return Quarantined.objects.create(
            fingerprint=uuid4(),
            reason=reason,
            first_received_at=received,
            last_received_at=received,
            **{"payload": b"{}", "topic": "telemetry/x", "detail": "in words", **fields},
        )


@pytest.fixture(autouse=True)
def no_limit(settings: Any) -> None:
    """The tests of a minute are more than a tenant may ask in one; what limits has tests of its own."""
    settings.API_REQUESTS_PER_MINUTE = 0


@pytest.fixture
def api(db: None, tenant_a: Any) -> Api:
    """Tenant A's API with a key that may write."""
    return Api(tenant_a.slug, key=issue_key(tenant_a))


@pytest.fixture
def admin_api(db: None, tenant_a: Any) -> Api:
    """Tenant A's API as one of its administrators."""
    return Api(tenant_a.slug, user=person("an-admin", tenant_a, "admin"))


@pytest.fixture
def expired() -> datetime.datetime:
    return timezone.now() - datetime.timedelta(seconds=1)


@pytest.fixture
def greenhouse(api: Api, tenant_a: Any) -> Any:
    """A device of tenant A with a dht22 and a relay."""
    return make_device(tenant_a, "greenhouse", dht22="dht22", relay="relay")


@pytest.fixture
def count_queries(api: Api) -> Callable[[Callable[[], Any]], int]:
    """How many queries a call makes, without those that set the search path."""
    from django.test.utils import CaptureQueriesContext

    def count(call: Callable[[], Any]) -> int:
        with CaptureQueriesContext(connection) as captured:
            answer = call()
        assert answer.status_code == 200, answer.content
        return sum(not query["sql"].startswith("SET search_path") for query in captured)

    return count
