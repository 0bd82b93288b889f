"""Scopes, addresses, ends and successors of API keys."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.domain.scopes import SCOPES, SETS
from devices.models import ApiKey, AuditEntry
from tests.factories import issue_key, make_device

from .client import HOUR, Api, problems


@pytest.fixture(autouse=True)
def no_broker(settings: Any) -> None:
    settings.MQTT_ADMIN_URL = ""


def with_scopes(tenant: Any, *scopes: str, **options: Any) -> Api:
    return Api(tenant.slug, key=issue_key(tenant, "custom", scopes=scopes, **options))


# Scope → a request that needs it.
NEEDED = {
    "devices:read": ("get", "devices/"),
    "devices:write": ("post", "places/"),
    "readings:read": ("get", "latest/"),
    "quarantine:read": ("get", "quarantine/"),
    "quarantine:write": ("post", "quarantine/replays/"),
    "metadata:read": ("get", "units/"),
    "metadata:write": ("post", "units/"),
    "credentials:read": ("get", "key-rotations/"),
    "credentials:write": ("post", "devices/{device}/keys/"),
    "usage:read": ("get", "totals/"),
    "gateways:write": ("post", "devices/{device}/waiting-publishers/"),
    "keys:read": ("get", "api-keys/"),
    "keys:write": ("post", "api-keys/"),
    "members:read": ("get", "members/"),
    "members:write": ("post", "members/"),
    "export:read": ("get", "export/"),
    "alarms:read": ("get", "alarms/"),
    "alarms:write": ("post", "alarm-rules/"),
}


@pytest.mark.parametrize("scope", NEEDED)
def test_a_key_does_what_its_scope_names_and_nothing_else(db: None, tenant_a: Any, scope: str) -> None:
    device = make_device(tenant_a)
    client = with_scopes(tenant_a, scope)
    for name, (method, path) in NEEDED.items():
        answer = client.send(method, path.format(device=device.uuid), None if method == "get" else {"unknown": 1})
        if name == scope:
            assert answer.status_code in (200, 400), (name, answer.content)
        else:
            assert answer.status_code == 403, name
            assert problems(answer)[None] == f"This requires an API key with the scope {name}."
        # `close()` would end the database connection too.
        for close in answer._resource_closers:
            close()
    assert client.get("whoami/").json()["scopes"] == [scope]


@pytest.mark.parametrize("name", SETS)
def test_the_name_of_a_set_stands_for_its_scopes(db: None, tenant_a: Any, name: str) -> None:
    found = Api(tenant_a.slug, key=issue_key(tenant_a, name)).get("whoami/").json()
    assert set(found["scopes"]) == SETS[name]
    assert (found["kind"], found["role"], found["tenant"], found["selector"]) == ("key", None, tenant_a.slug, {})


def test_no_set_manages_keys() -> None:
    assert not {"keys:read", "keys:write", "members:read", "members:write"} & frozenset.union(*SETS.values())
    assert SETS["read"] < SETS["write"] < SETS["admin"] < set(SCOPES)


def test_a_person_is_told_role_and_tenant(admin_api: Api, tenant_a: Any) -> None:
    found = admin_api.get("whoami/").json()
    assert (found["kind"], found["name"], found["role"], found["scopes"]) == ("person", "an-admin", "admin", None)


def test_scopes_are_given_by_name_or_one_by_one(admin_api: Api) -> None:
    made = admin_api.post("api-keys/", {"name": "k", "scopes": ["readings:read", "devices:read"], "description": "d"})
    key = made.json()
    assert (key["scope"], key["scopes"], key["description"]) == ("custom", ["devices:read", "readings:read"], "d")
    assert admin_api.post("api-keys/", {"name": "k"}).json()["scope"] == "read"
    both = admin_api.post("api-keys/", {"name": "k", "scope": "read", "scopes": ["devices:read"]})
    assert "either 'scope' or 'scopes'" in problems(both)["scopes"]
    unknown = admin_api.post("api-keys/", {"name": "k", "scopes": ["devices:fly"]})
    assert "devices:fly" in problems(unknown)["scopes.0"]
    assert admin_api.post("api-keys/", {"name": "k", "scopes": []}).status_code == 400


def test_a_key_issues_keys_with_no_more_rights_than_its_own(db: None, tenant_a: Any) -> None:
    end = timezone.now() + HOUR
    client = with_scopes(tenant_a, "keys:write", "devices:read", expires_at=end, addresses=["127.0.0.0/8"])
    wanted: dict[str, Any] = {
        "name": "k", "scopes": ["devices:read"], "addresses": ["127.0.0.0/8"], "expires_at": end.isoformat(),
    }  # fmt: skip
    made = client.post("api-keys/", wanted)
    assert made.status_code == 201, made.content
    assert made.json()["created_by"].startswith("API key gwj_")
    for change, member in (
        ({"scopes": ["devices:read", "readings:read"]}, "scopes"),
        ({"expires_at": (end + HOUR).isoformat()}, "expires_at"),
        ({"expires_at": None}, "expires_at"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["10.0.0.0/8"]}, "addresses"),
    ):
        refused = client.post("api-keys/", wanted | change)
        assert (refused.status_code, list(problems(refused))) == (400, [member])


def test_a_key_cannot_rotate_or_revoke_one_with_more_rights(db: None, tenant_a: Any) -> None:
    client = with_scopes(tenant_a, "keys:read", "keys:write")
    with schema_context(tenant_a.schema_name):
        issue_key(tenant_a, "write")
        stronger = ApiKey.objects.get(scope="write")
    assert client.post(f"api-keys/{stronger.pk}/rotate/").status_code == 403
    assert client.delete(f"api-keys/{stronger.pk}/").status_code == 403
    own = next(key for key in client.get("api-keys/").json()["results"] if key["scope"] == "custom")
    assert client.post(f"api-keys/{own['id']}/rotate/").status_code == 201


@pytest.mark.parametrize(
    ("addresses", "sender", "status"),
    [
        (["203.0.113.0/24"], "203.0.113.7", 200),
        (["203.0.113.0/24"], "::ffff:203.0.113.7", 200),
        (["203.0.113.0/24"], "203.0.114.7", 403),
        (["2001:db8::/32", "203.0.113.7"], "2001:db8::5", 200),
        (["2001:db8::/32"], "2001:db9::5", 403),
        ([], "198.51.100.1", 200),
    ],
)
def test_a_key_is_valid_at_its_addresses_only(
    db: None, tenant_a: Any, addresses: list[str], sender: str, status: int
) -> None:
    client = with_scopes(tenant_a, "devices:read", addresses=addresses)
    client._client.defaults["REMOTE_ADDR"] = sender
    assert client.get("devices/").status_code == status


@pytest.mark.parametrize("network", ["10.0.0.1/8", "300.1.1.1", "localhost", "10.0.0.0/33", ""])
def test_an_invalid_network_is_refused(admin_api: Api, network: str) -> None:
    answer = admin_api.post("api-keys/", {"name": "k", "addresses": [network]})
    assert answer.status_code == 400
    assert any(str(name).startswith("addresses") for name in problems(answer))


def test_a_key_ends_by_default_where_the_operator_says_so(admin_api: Api, settings: Any) -> None:
    assert admin_api.post("api-keys/", {"name": "k"}).json()["expires_at"] is None
    settings.API_KEY_DEFAULT_DAYS, settings.API_KEY_WARNING_DAYS = 30, 14
    key = admin_api.post("api-keys/", {"name": "k"}).json()
    assert str((timezone.now() + timedelta(days=30)).date()) in key["expires_at"]
    assert key["ends_soon"] is False
    settings.API_KEY_WARNING_DAYS = 31
    shown = {key["id"]: key["ends_soon"] for key in admin_api.get("api-keys/").json()["results"]}
    assert shown[key["id"]] is True
    assert admin_api.post("api-keys/", {"name": "k", "expires_at": None}).json()["expires_at"] is None


def test_a_rotated_key_stays_valid_for_a_while(admin_api: Api, tenant_a: Any) -> None:
    wanted = {"name": "k", "scopes": ["devices:read"], "description": "d", "selector": {"tags": ["a"]}}
    old = admin_api.post("api-keys/", wanted).json()
    new = admin_api.post(f"api-keys/{old['id']}/rotate/", {"overlap_seconds": 60}).json()
    assert {name: new[name] for name in (*wanted, "addresses")} == {name: old[name] for name in (*wanted, "addresses")}
    assert new["key"] != old["key"]
    assert [Api(tenant_a.slug, key=key["key"]).get("devices/").status_code for key in (old, new)] == [200, 200]
    listed = {key["id"]: key for key in admin_api.get("api-keys/").json()["results"]}
    assert listed[old["id"]]["successor"] == new["prefix"]
    assert listed[old["id"]]["ends_soon"] is False
    again = admin_api.post(f"api-keys/{old['id']}/rotate/")
    assert (again.status_code, "successor" in problems(again)[None]) == (409, True)
    with schema_context(tenant_a.schema_name):
        ApiKey.objects.filter(pk=old["id"]).update(expires_at=timezone.now())
        row = AuditEntry.objects.filter(action="rotate API key").get()
        assert (row.object_id, row.detail) == (str(old["id"]), new["prefix"])
    assert [Api(tenant_a.slug, key=key["key"]).get("devices/").status_code for key in (old, new)] == [401, 200]


def test_a_disclosed_key_ends_with_its_rotation(admin_api: Api, tenant_a: Any) -> None:
    old = admin_api.post("api-keys/", {"name": "k"}).json()
    assert admin_api.post(f"api-keys/{old['id']}/rotate/", {"overlap_seconds": 0}).status_code == 201
    assert Api(tenant_a.slug, key=old["key"]).get("devices/").status_code == 401


@pytest.mark.parametrize("overlap", [-1, 90 * 86400 + 1, "x"])
def test_an_invalid_overlap_is_refused(admin_api: Api, overlap: Any) -> None:
    old = admin_api.post("api-keys/", {"name": "k"}).json()
    assert admin_api.post(f"api-keys/{old['id']}/rotate/", {"overlap_seconds": overlap}).status_code == 400
