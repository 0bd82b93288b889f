"""API keys: issued, shown once, listed without what they are, revoked."""

import datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.api import access
from devices.models import ApiKey, AuditEntry
from tenants.infrastructure.throttling import SecretThrottle
from tests.factories import issue_key

from .client import Api, problems


def test_a_key_is_shown_once_and_works_until_it_is_revoked(admin_api: Api, tenant_a: Any) -> None:
    answer = admin_api.post("api-keys/", {"name": "dashboard", "scope": "read"})
    assert answer.status_code == 201
    issued = answer.json()
    assert (issued["name"], issued["scope"], issued["valid"], issued["created_by"]) == (
        "dashboard", "read", True, "an-admin",
    )  # fmt: skip
    assert issued["key"].startswith(issued["prefix"])

    user = Api(tenant_a.slug, key=issued["key"])
    assert user.get("devices/").status_code == 200
    listed = admin_api.get("api-keys/")
    (row,) = listed.json()["results"]
    assert row["last_used_at"] is not None
    assert issued["key"] not in listed.content.decode()
    assert row.keys() == issued.keys() - {"key"}

    assert admin_api.delete(f"api-keys/{issued['id']}/").status_code == 204
    refused = user.get("devices/")
    assert refused.status_code == 401
    assert "not valid in this tenant" in problems(refused)[None]
    (row,) = admin_api.get("api-keys/").json()["results"]
    assert (row["valid"], row["revoked_at"] is None) == (False, False)
    assert admin_api.delete(f"api-keys/{issued['id']}/").status_code == 204  # again: it is revoked
    with schema_context(tenant_a.schema_name):
        actions = (
            AuditEntry.objects.filter(object_type="devices.apikey").order_by("id").values_list("action", "user_label")
        )
        assert list(actions) == [("issue", "an-admin"), ("revoke", "an-admin")]


def test_a_key_may_end_by_itself(admin_api: Api, tenant_a: Any) -> None:
    soon = timezone.now() + datetime.timedelta(hours=1)
    issued = admin_api.post("api-keys/", {"name": "for a day", "expires_at": soon.isoformat()}).json()
    assert datetime.datetime.fromisoformat(issued["expires_at"]) == soon
    user = Api(tenant_a.slug, key=issued["key"])
    assert user.get("devices/").status_code == 200
    with schema_context(tenant_a.schema_name):
        ApiKey.objects.filter(pk=issued["id"]).update(expires_at=timezone.now())
    assert user.get("devices/").status_code == 401


@pytest.mark.parametrize(
    ("body", "attr", "text"),
    [
        ({}, "name", "required"),
        ({"name": "x", "scope": "everything"}, "scope", "must be one of read, write, admin, not 'everything'"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "must be in the future"),
        ({"name": "x", "expires_at": "2036-01-01T00:00:00"}, "expires_at", "has no offset"),
        ({"name": "x", "expires_at": 5}, "expires_at", "not a valid ISO 8601 time"),
        ({"name": "x", "key": "my-own"}, "key", "'key' is not a known member"),
    ],
)
def test_a_key_that_cannot_be_issued(admin_api: Api, body: dict[str, Any], attr: str, text: str) -> None:
    answer = admin_api.post("api-keys/", body)
    assert answer.status_code == 400
    assert text in problems(answer)[attr]


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Bearer", "exactly as issued"),
        ("Bearer ", "exactly as issued"),
        ("Bearer two words", "exactly as issued"),
        ("Bearer gwj_\xff", "exactly as issued"),
        ("Bearer " + "a" * 5000, "exactly as issued"),
        ("Bearer gwj_unknown", "not valid in this tenant"),
        ("Basic YTpi", "Send an API key of this tenant"),
        ("Token gwj_unknown", "Send an API key of this tenant"),
    ],
)
def test_a_header_that_is_no_key(db: None, tenant_a: Any, header: str, text: str) -> None:
    answer = Api(tenant_a.slug)._client.get("/t/alpha/api/v1/devices/", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="api"'
    assert text in problems(answer)[None]


def test_the_scheme_is_written_in_any_case(db: None, tenant_a: Any) -> None:
    headers = {"Authorization": f"bEARER   {issue_key(tenant_a)} "}
    assert Api(tenant_a.slug)._client.get("/t/alpha/api/v1/devices/", headers=headers).status_code == 200


def test_a_key_with_the_right_beginning_and_a_wrong_end_is_refused(db: None, tenant_a: Any) -> None:
    key = issue_key(tenant_a)
    other = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert Api(tenant_a.slug, key=other).get("devices/").status_code == 401


def test_an_address_with_many_invalid_keys_is_answered_without_a_query(
    api: Api, tenant_a: Any, tenant_b: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "key_throttle", SecretThrottle(5))
    assert api.get("devices/").status_code == 200
    invalid = Api(tenant_b.slug, key="gwj_invalid")
    assert [invalid.get("devices/").status_code for _ in range(8)] == [401] * 5 + [429] * 3
    with CaptureQueriesContext(connection) as queries:
        refused = invalid.get("devices/")
    assert refused["Retry-After"] == "60"
    assert "Too many invalid API keys" in problems(refused)[None]
    assert not any("apikey" in query["sql"] for query in queries)
    assert api.get("devices/").status_code == 200  # a neighbour's key that was valid before
    elsewhere = invalid._client.get(f"{invalid.root}devices/", REMOTE_ADDR="198.51.100.7")
    assert elsewhere.status_code == 401
