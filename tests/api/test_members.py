"""Members of a tenant over the API: who may give and take which role, and that an owner always remains."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from devices.models import AuditEntry, Place
from devices.services import members
from tenants.infrastructure.throttling import LocalCounter
from tenants.models import Membership, Tenant, User
from tests.factories import issue_key, make_device, make_tenant, make_user, remove_tenant

from .client import Api, problem_of, problems


class LocalNames:
    """Counts without Redis, so that no test finds the counts of another."""

    def __init__(self) -> None:
        self._counter = LocalCounter(3600, 100)
        self.add, self.read = self._counter.add, self._counter.read


@pytest.fixture(autouse=True)
def no_broker(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.MQTT_ADMIN_URL = ""
    monkeypatch.setattr(members, "_unknown_names", LocalNames())


@pytest.fixture
def owner_api(db: None, tenant_a: Any) -> Api:
    return Api(tenant_a.slug, user=User.objects.get(username="owner-alpha"))


def entries(tenant: Any) -> list[Any]:
    with schema_context(tenant.schema_name):
        return list(AuditEntry.objects.filter(object_type="tenants.membership").order_by("id"))


def id_of(username: str, tenant: Any) -> int:
    return int(Membership.objects.get(user__username=username, tenant=tenant).pk)


def test_a_member_is_added_changed_and_removed_with_audit_entries(admin_api: Api, tenant_a: Any) -> None:
    user = make_user("anna", email="Anna@Example.com")
    answer = admin_api.post("members/", {"email": "anna@example.COM", "role": "operator"})
    assert answer.status_code == 201, answer.content
    member = answer.json()
    assert member == {
        "id": member["id"], "username": "anna", "email": "Anna@example.com", "active": True, "role": "operator",
        "selector": {},
    }  # fmt: skip
    assert admin_api.get(f"members/{member['id']}/").json() == member
    anna = Api(tenant_a.slug, user=user)
    assert anna.post("places/", {"key": "p", "name": "p"}).status_code == 201

    changed = admin_api.patch(f"members/{member['id']}/", {"role": "viewer", "selector": {"places": ["p"]}})
    assert changed.json() == member | {"role": "viewer", "selector": {"places": ["p"]}}
    assert anna.post("places/", {"key": "q", "name": "q"}).status_code == 403

    assert admin_api.delete(f"members/{member['id']}/").status_code == 204
    assert anna.get("devices/").status_code == 403
    assert admin_api.delete(f"members/{member['id']}/").status_code == 404
    assert User.objects.filter(username="anna").exists(), "the account stays"
    added, change, removed = entries(tenant_a)
    assert (added.action, added.user_label, added.changes["role"]) == (
        "add", "an-admin", {"before": None, "after": "operator"},
    )  # fmt: skip
    with schema_context(tenant_a.schema_name):
        place = Place.objects.get(key="p").pk
    assert change.changes == {
        "role": {"before": "operator", "after": "viewer"},
        "selector": {"before": {}, "after": {"places": [place]}},
    }
    assert (removed.action, removed.changes["user"]) == ("remove", {"before": "anna", "after": None})


def test_the_list_has_the_tenants_own_members(admin_api: Api, tenant_a: Any, tenant_b: Any) -> None:
    make_user("in-both", tenant_a, "viewer", is_active=False)
    Membership.objects.create(user=User.objects.get(username="in-both"), tenant=tenant_b, role="admin")
    listed = admin_api.get("members/").json()["results"]
    assert [(row["username"], row["role"], row["active"]) for row in listed] == [
        ("an-admin", "admin", True), ("in-both", "viewer", False), ("owner-alpha", "owner", True),
    ]  # fmt: skip
    assert [row["username"] for row in admin_api.get("members/", role="owner").json()["results"]] == ["owner-alpha"]
    assert admin_api.get("members/", role="king").status_code == 400
    assert admin_api.get(f"members/{id_of('in-both', tenant_b)}/").status_code == 404


def test_a_selector_limits_a_member_from_the_next_request_on(admin_api: Api, tenant_a: Any) -> None:
    inside, outside = make_device(tenant_a, "inside"), make_device(tenant_a, "outside")
    user = make_user("customer", tenant_a, "operator")
    customer, address = Api(tenant_a.slug, user=user), f"members/{id_of('customer', tenant_a)}/"
    assert customer.get(f"devices/{outside.uuid}/").status_code == 200
    assert admin_api.patch(address, {"selector": {"devices": [str(inside.uuid)]}}).status_code == 200
    assert customer.get(f"devices/{outside.uuid}/").status_code == 404
    assert customer.get(f"devices/{inside.uuid}/").status_code == 200
    assert admin_api.patch(address, {"selector": {}}).json()["selector"] == {}
    assert customer.get(f"devices/{outside.uuid}/").status_code == 200


def test_a_selector_of_a_removed_place_does_not_become_one_of_all_devices(admin_api: Api, tenant_a: Any) -> None:
    make_user("customer", tenant_a, "viewer")
    address = f"members/{id_of('customer', tenant_a)}/"
    admin_api.post("places/", {"key": "gone", "name": "gone"})
    admin_api.patch(address, {"selector": {"places": ["gone"]}})
    assert admin_api.delete("places/gone/").status_code == 204
    read = admin_api.get(address).json()
    assert read["selector"] == {"places": []}
    refused = admin_api.patch(address, {"role": read["role"], "selector": read["selector"]})
    assert "Send {}" in problems(refused)["selector"]
    assert admin_api.patch(address, {"role": "operator"}).status_code == 200
    assert Membership.objects.get(user__username="customer").selector["places"]


def test_an_administrator_with_a_selector_manages_no_members(db: None, tenant_a: Any) -> None:
    user = make_user("limited-admin", tenant_a, "admin")
    Membership.objects.filter(user=user).update(selector={"tags": ["own"]})
    limited, own = Api(tenant_a.slug, user=user), id_of("limited-admin", tenant_a)
    assert limited.get("members/").status_code == 403
    assert limited.patch(f"members/{own}/", {"selector": {}}).status_code == 403


# --- owners ---------------------------------------------------------------------------------------------------


def test_only_an_owner_gives_and_takes_the_role_owner(admin_api: Api, owner_api: Api, tenant_a: Any) -> None:
    make_user("second")
    body = {"username": "second", "role": "owner"}
    assert "Only an owner" in problems(admin_api.post("members/", body))[None]
    assert admin_api.post("members/", {"username": "second"}).json()["role"] == "viewer"
    second, first = id_of("second", tenant_a), id_of("owner-alpha", tenant_a)
    for answer in (
        admin_api.patch(f"members/{second}/", {"role": "owner"}),
        admin_api.patch(f"members/{first}/", {"role": "admin"}),
        admin_api.patch(f"members/{first}/", {"selector": {"tags": ["x"]}}),
        admin_api.delete(f"members/{first}/"),
    ):
        assert (answer.status_code, problem_of(answer)["code"]) == (403, "role_required")
    assert owner_api.patch(f"members/{second}/", {"role": "owner"}).json()["role"] == "owner"
    assert owner_api.patch(f"members/{first}/", {"role": "admin"}).json()["role"] == "admin", "handed over"
    assert owner_api.patch(f"members/{first}/", {"role": "owner"}).status_code == 403


def test_the_last_owner_with_an_active_account_stays(owner_api: Api, tenant_a: Any) -> None:
    make_user("gone", tenant_a, "owner", is_active=False)
    own = f"members/{id_of('owner-alpha', tenant_a)}/"
    for answer in (owner_api.patch(own, {"role": "viewer"}), owner_api.delete(own)):
        assert (answer.status_code, problem_of(answer)["code"]) == (409, "last_owner")
        assert "last owner" in problems(answer)[None]
    assert owner_api.delete(f"members/{id_of('gone', tenant_a)}/").status_code == 204
    make_user("next", tenant_a, "owner")
    assert owner_api.delete(own).status_code == 204
    assert owner_api.get("members/").status_code == 403


def test_an_owner_sees_all_devices(owner_api: Api, tenant_a: Any) -> None:
    make_user("second")
    limited = {"selector": {"tags": ["x"]}}
    refused = owner_api.post("members/", {"username": "second", "role": "owner", **limited})
    assert "must be empty" in problems(refused)["selector"]
    own = f"members/{id_of('owner-alpha', tenant_a)}/"
    assert "must be empty" in problems(owner_api.patch(own, limited))["selector"]
    make_user("viewer", tenant_a, "viewer")
    viewer = f"members/{id_of('viewer', tenant_a)}/"
    assert owner_api.patch(viewer, limited).status_code == 200
    assert "must be empty" in problems(owner_api.patch(viewer, {"role": "owner"}))["selector"]
    assert owner_api.patch(viewer, {"role": "owner", "selector": {}}).status_code == 200


def test_a_superuser_names_the_first_owner(db: None, tenant_a: Any) -> None:
    Membership.objects.filter(tenant=tenant_a).delete()
    root = Api(tenant_a.slug, user=make_user("root", is_superuser=True))
    make_user("first")
    assert root.post("members/", {"username": "first", "role": "owner"}).status_code == 201
    assert root.get("whoami/").json()["role"] == "owner"


@pytest.fixture
def own_tenant(live_db: None) -> Iterator[Any]:
    tenant = make_tenant("members-test")
    yield tenant
    remove_tenant(tenant)
    User.objects.filter(username__startswith="racer-").delete()


def test_two_owners_who_remove_each_other_at_once_leave_one(own_tenant: Any) -> None:
    """Each passes the check alone; under the lock the second is not an owner any more, or is the last."""
    users = [make_user(f"racer-{n}", own_tenant, "owner") for n in range(2)]
    ids = [id_of(user.username, own_tenant) for user in users]
    start, statuses = threading.Barrier(2), []

    def remove(own: Any, other: int) -> None:
        try:
            client = Api(own_tenant.slug, user=own)
            start.wait()
            statuses.append(client.delete(f"members/{other}/").status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=remove, args=(users[n], ids[1 - n])) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Membership.objects.filter(tenant=own_tenant, role="owner").count() == 1
    assert statuses.count(204) == 1
    assert set(statuses) <= {204, 403, 404}


# --- keys -----------------------------------------------------------------------------------------------------


def test_a_key_gives_and_takes_only_roles_whose_scopes_it_has(db: None, tenant_a: Any) -> None:
    from devices.domain.scopes import ROLE_SCOPES, SETS

    for name in ("one", "two", "three"):
        make_user(name)
    make_user("an-operator", tenant_a, "operator")
    reading = Api(
        tenant_a.slug, key=issue_key(tenant_a, "custom", scopes=[*SETS["read"], "members:read", "members:write"])
    )
    assert reading.post("members/", {"username": "one"}).status_code == 201
    for answer in (
        reading.post("members/", {"username": "two", "role": "operator"}),
        reading.patch(f"members/{id_of('one', tenant_a)}/", {"role": "operator"}),
        reading.delete(f"members/{id_of('an-operator', tenant_a)}/"),
        reading.post("members/", {"username": "two", "role": "admin"}),
        reading.post("members/", {"username": "two", "role": "owner"}),
    ):
        assert (answer.status_code, problem_of(answer)["code"]) == (403, "scope_required")
    everything = Api(tenant_a.slug, key=issue_key(tenant_a, "custom", scopes=sorted(ROLE_SCOPES["admin"])))
    assert everything.post("members/", {"username": "two", "role": "admin"}).status_code == 201
    assert everything.post("members/", {"username": "three", "role": "owner"}).status_code == 403
    assert everything.delete(f"members/{id_of('owner-alpha', tenant_a)}/").status_code == 403
    assert entries(tenant_a)[-1].user_label.startswith("API key gwj_")


# --- accounts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "member", "text"),
    [
        ({}, 400, "username", "either 'username' or 'email'"),
        ({"username": "a", "email": "a@example.com"}, 400, "username", "either 'username' or 'email'"),
        ({"username": "absent"}, 400, "username", "There is no active account absent"),
        ({"username": "left"}, 400, "username", "There is no active account left"),
        ({"email": "shared@example.com"}, 400, "email", "Several accounts"),
        ({"email": "no address"}, 400, "email", "There is no active account no address"),
        ({"username": "free", "role": "king"}, 400, "role", "viewer, operator, admin, owner"),
        ({"username": "free", "selector": {"places": ["nowhere"]}}, 400, "selector.places", "do not exist"),
        ({"username": "free", "rolle": "viewer"}, 400, "rolle", "not a known member"),
        ({"username": "an-admin"}, 409, None, "is a member of this tenant already"),
    ],
)
def test_a_member_that_cannot_be_added(
    admin_api: Api, body: dict[str, Any], status: int, member: str | None, text: str
) -> None:
    make_user("free")
    make_user("left", is_active=False)
    for name in ("twin-1", "twin-2"):
        make_user(name, email="shared@example.com")
    answer = admin_api.post("members/", body)
    assert answer.status_code == status
    assert text.lower() in problems(answer)[member].lower()


def test_a_tenant_cannot_search_the_platform_for_accounts(
    admin_api: Api, monkeypatch: pytest.MonkeyPatch, tenant_a: Any
) -> None:
    monkeypatch.setattr(members, "UNKNOWN_NAMES_PER_HOUR", 3)
    make_user("real")
    assert [admin_api.post("members/", {"username": f"guess-{n}"}).status_code for n in range(4)] == [400] * 3 + [429]
    refused = admin_api.post("members/", {"username": "real"})
    assert refused.status_code == 429, "a right name too: the answer tells nothing more"
    assert int(refused["Retry-After"]) > 0


def test_a_member_is_changed_only_as_it_was_read(admin_api: Api, tenant_a: Any) -> None:
    make_user("anna", tenant_a, "viewer")
    address = f"members/{id_of('anna', tenant_a)}/"
    tag = admin_api.get(address)["ETag"]
    client = admin_api._client

    def patch(role: str, etag: str) -> int:
        headers = {"If-Match": etag}
        answer = client.patch(admin_api.root + address, {"role": role}, "application/json", headers=headers)
        return int(answer.status_code)

    assert patch("operator", tag) == 200
    assert patch("viewer", tag) == 412
    assert (
        client.get(admin_api.root + address, headers={"If-None-Match": admin_api.get(address)["ETag"]}).status_code
        == 304
    )
    assert client.delete(admin_api.root + address, headers={"If-Match": tag}).status_code == 412
    assert admin_api.get(address).json()["role"] == "operator"


def test_a_repeated_request_adds_a_member_once(admin_api: Api, tenant_a: Any) -> None:
    make_user("anna")
    headers = {"Idempotency-Key": "a-member"}
    first, again = (
        admin_api._client.post(admin_api.root + "members/", {"username": "anna"}, "application/json", headers=headers)
        for _ in range(2)
    )
    assert (first.status_code, again.status_code, again["Idempotent-Replayed"]) == (201, 201, "true")
    assert first.json() == again.json()
    assert len(entries(tenant_a)) == 1


def test_a_quota_limits_the_members(admin_api: Api, tenant_a: Any) -> None:
    from tenants.services.limits import set_limits

    make_user("anna")
    set_limits(Tenant.objects.get(pk=tenant_a.pk), max_memberships=2)
    answer = admin_api.post("members/", {"username": "anna"})
    assert (answer.status_code, problem_of(answer)["code"]) == (409, "quota_exceeded")
    assert not Membership.objects.filter(user__username="anna").exists()
