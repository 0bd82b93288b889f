"""The staff's API: one tenant, its state and plan, and service keys; every endpoint × who."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone
from django_redis import get_redis_connection

from tenants.infrastructure.throttling import SecretThrottle
from tenants.models import Plan, ServiceKey, Tenant
from tenants.services.limits import limits_of
from tenants.services.service_keys import issue_service_key
from tests.factories import issue_key, make_user

from .client import HANDLER, Api, problem_of, problems
from .test_public import PASSWORD, STAFF_ENDPOINTS, basic, session

ROOT = "/api/v1/"


@pytest.fixture(autouse=True)
def no_counts(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from tenants.api import authentication

    settings.MQTT_ADMIN_URL = ""
    monkeypatch.setattr(authentication, "service_key_throttle", SecretThrottle(0))
    yield
    redis = get_redis_connection("default")
    for key in redis.scan_iter("gwanje:count:public:*"):
        redis.delete(key)


@pytest.fixture
def root(db: None, tenant_a: Any, tenant_b: Any) -> Any:
    return make_user("root", password=PASSWORD, is_superuser=True)


def bearer(text: str) -> Client:
    client = Client(headers={"Authorization": f"Bearer {text}"})
    client.handler = HANDLER
    return client


def service(root: Any, *scopes: str, **options: Any) -> Client:
    _key, text = issue_service_key(name="a program", scopes=scopes, acting_user=root, **options)
    return bearer(text)


def send(client: Client, method: str, path: str, body: Any = None) -> Any:
    content = {} if method == "get" else {"data": {} if body is None else body, "content_type": "application/json"}
    return getattr(client, method)(ROOT + path, **content)


# Method, address, body, scope of a service key (None: no service key), status for those who may.
ROWS = [
    ("get", "tenants/", None, "tenants:read", 200),
    ("post", "tenants/", {"slug": "alpha", "name": "x"}, "tenants:write", 409),
    ("get", "tenants/alpha/", None, "tenants:read", 200),
    ("patch", "tenants/alpha/", {"name": "Alpha"}, "tenants:write", 200),
    ("post", "tenants/alpha/suspend/", {"reason": "unpaid"}, "tenants:write", 200),
    ("post", "tenants/alpha/resume/", {}, "tenants:write", 409),
    ("get", "plans/", None, "tenants:read", 200),
    ("get", "service-keys/", None, None, 200),
    ("post", "service-keys/", {"name": "k", "scopes": ["tenants:read"]}, None, 201),
    ("delete", "service-keys/{key}/", None, None, 204),
]


def test_every_endpoint_has_a_row() -> None:
    def pattern(path: str) -> str:
        return path.replace("alpha", "<str:slug>").replace("{key}", "<int:id>")

    assert {(method.upper(), f"api/v1/{pattern(path)}") for method, path, *_ in ROWS} == STAFF_ENDPOINTS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_who_reaches_it(root: Any, tenant_a: Any, row: Any) -> None:
    method, path, body, scope, status = row
    key, _text = issue_service_key(name="another", scopes=["tenants:read"], acting_user=root)
    ended = timezone.now() - timedelta(seconds=1)
    refused = {
        "anonymous": (Client(), 401),
        "a key of a tenant": (bearer(issue_key(tenant_a)), 401),
        "a wrong key": (bearer("gws_unknown"), 401),
        "an expired key": (service(root, "tenants:read", "tenants:write", expires_at=ended), 401),
        "an owner of the tenant": (session(make_user("owner", tenant_a, "owner")), 403),
        "staff, not superuser": (session(make_user("staff", is_staff=True)), 403),
        "a key without the scope": (
            service(root, *({"tenants:read", "tenants:write"} - {scope} if scope else ("tenants:write",))), 403,
        ),
    }  # fmt: skip
    for who, (client, expected) in refused.items():
        answer = send(client, method, path.format(key=key.pk), body)
        assert answer.status_code == expected, (who, answer.content)
        assert problems(answer)
    allowed = session(root) if scope is None else service(root, scope)
    answer = send(allowed, method, path.format(key=key.pk), body)
    assert answer.status_code == status, answer.content


def test_a_key_ends_with_the_rights_of_its_issuer(root: Any) -> None:
    client = service(root, "tenants:read")
    assert send(client, "get", "tenants/").status_code == 200
    for change in ({"is_superuser": False}, {"is_active": False}):
        type(root).objects.filter(pk=root.pk).update(**{"is_superuser": True, "is_active": True, **change})
        assert send(client, "get", "tenants/").status_code == 401
    type(root).objects.filter(pk=root.pk).update(is_superuser=True, is_active=True)
    assert send(client, "get", "tenants/").status_code == 200


def test_a_key_is_shown_once_and_works_until_it_is_revoked(root: Any) -> None:
    person = session(root)
    made = send(person, "post", "service-keys/", {"name": "billing", "scopes": ["tenants:read"]}).json()
    client = bearer(made["key"])
    assert send(client, "get", "tenants/").status_code == 200
    listed = send(person, "get", "service-keys/")
    assert made["key"] not in listed.content.decode()
    (row,) = listed.json()["results"]
    assert (row["prefix"], row["issued_by"], row["valid"]) == (made["key"][:14], "root", True)
    assert row["last_used_at"] is not None
    assert send(person, "delete", f"service-keys/{made['id']}/").status_code == 204
    assert send(person, "delete", f"service-keys/{made['id']}/").status_code == 204  # again: it is revoked
    assert send(client, "get", "tenants/").status_code == 401
    assert ServiceKey.objects.get().digest not in listed.content.decode()
    messages = LogEntry.objects.filter(user=root).order_by("id").values_list("change_message", flat=True)
    assert list(messages) == ["Issued with tenants:read.", "Revoked."]


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"scopes": ["tenants:read"]}, "name"),
        ({"name": "k", "scopes": []}, "scopes"),
        ({"name": "k", "scopes": ["tenants:fly"]}, "scopes.0"),
        ({"name": "k", "scopes": ["tenants:read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "k", "scopes": ["tenants:read"], "key": "mine"}, "key"),
    ],
)
def test_a_key_that_cannot_be_issued(root: Any, body: dict[str, Any], member: str) -> None:
    answer = send(session(root), "post", "service-keys/", body)
    assert answer.status_code == 400
    assert member in problems(answer)


def test_a_tenant_is_suspended_and_resumed(root: Any, api: Api) -> None:
    client = service(root, "tenants:read", "tenants:write")
    answer = send(client, "post", "tenants/alpha/suspend/", {"reason": "unpaid"})
    assert (answer.json()["state"], answer.json()["state_detail"]) == ("suspended", "unpaid")
    assert api.get("devices/").status_code == 503
    again = send(client, "post", "tenants/alpha/suspend/", {"reason": "unpaid"})
    assert (again.status_code, problem_of(again)["code"]) == (409, "wrong_state")
    assert send(client, "post", "tenants/alpha/resume/").json()["state"] == "active"
    assert api.get("devices/").status_code == 200
    assert send(client, "post", "tenants/alpha/resume/").status_code == 409
    assert problems(send(client, "post", "tenants/alpha/suspend/", {}))["reason"]
    (suspended, resumed) = LogEntry.objects.filter(content_type__model="tenant").order_by("id")
    assert suspended.change_message.startswith("Suspended: unpaid (service key gws_")
    assert (suspended.user, resumed.user) == (root, root)


def test_a_tenant_is_renamed_and_gets_another_plan(root: Any, tenant_a: Any) -> None:
    Plan.objects.create(name="Standard", tenant_rate=7, max_devices=5)
    client = service(root, "tenants:read", "tenants:write")
    answer = send(client, "patch", "tenants/alpha/", {"name": "Alpha farm", "plan": "Standard"})
    assert (answer.json()["name"], answer.json()["plan"], answer.json()["slug"]) == ("Alpha farm", "Standard", "alpha")
    tenant = Tenant.objects.select_related("limits__plan").get(pk=tenant_a.pk)
    assert [limit.value for name, limit in limits_of(tenant).items() if name == "tenant_rate"] == [7]
    assert send(client, "patch", "tenants/alpha/", {"plan": None}).json()["plan"] is None
    assert send(client, "get", "tenants/alpha/").json()["name"] == "Alpha farm"
    (plan,) = [plan for plan in send(client, "get", "plans/").json()["results"] if plan["name"] == "Standard"]
    assert (plan["tenant_rate"], plan["max_devices"], plan["daily_quota"]) == (7, 5, None)


@pytest.mark.parametrize(
    ("body", "member", "text"),
    [
        ({"plan": "Gold"}, "plan", "There is no plan Gold"),
        ({"slug": "other"}, "slug", "not a known member"),
        ({"state": "active"}, "state", "not a known member"),
        ({"name": ""}, "name", ""),
    ],
)
def test_a_tenant_that_cannot_be_changed_so(root: Any, body: dict[str, Any], member: str, text: str) -> None:
    answer = send(basic("root"), "patch", "tenants/alpha/", body)
    assert answer.status_code == 400
    assert text in problems(answer)[member]


def test_an_unknown_tenant_is_not_found(root: Any) -> None:
    client = service(root, "tenants:read", "tenants:write")
    for answer in (send(client, "get", "tenants/nowhere/"), send(client, "post", "tenants/public/resume/")):
        assert answer.status_code == 404
        assert "There is no tenant" in problems(answer)[None]


def test_a_tenant_is_changed_only_as_it_was_read(root: Any) -> None:
    client = session(root)
    tag = client.get(f"{ROOT}tenants/alpha/")["ETag"]

    def rename(name: str) -> int:
        headers = {"If-Match": tag}
        return client.patch(f"{ROOT}tenants/alpha/", {"name": name}, "application/json", headers=headers).status_code

    assert [rename("first"), rename("second")] == [200, 412]


def test_guessing_keys_is_slowed_down(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenants.api import authentication

    valid = service(root, "tenants:read")
    monkeypatch.setattr(authentication, "service_key_throttle", SecretThrottle(3))
    assert send(valid, "get", "tenants/").status_code == 200
    assert [send(bearer(f"gws_{n}"), "get", "tenants/").status_code for n in range(4)] == [401] * 3 + [429]
    assert send(valid, "get", "tenants/").status_code == 200, "a key that was valid lately"
