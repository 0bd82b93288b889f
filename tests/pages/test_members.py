"""The pages of the tenant's members, and the selector in the forms of members and API keys."""

from typing import Any

import pytest
from django_tenants.utils import schema_context

from devices.models import ApiKey, AuditEntry, Place
from tenants.models import Membership, User
from tests.factories import make_device, make_user

from .client import ADMIN, Pages


@pytest.fixture(autouse=True)
def no_broker(settings: Any) -> None:
    settings.MQTT_ADMIN_URL = ""


@pytest.fixture
def members(db: None, tenant_a: Any) -> Pages:
    return Pages(f"{ADMIN}tenants/membership/", make_user("an-admin", tenant_a, "admin"))


def member(username: str) -> Membership:
    return Membership.objects.get(user__username=username)


def test_a_member_is_added_limited_and_removed(members: Pages, tenant_a: Any, tenant_b: Any) -> None:
    make_user("anna", email="anna@example.com")
    make_user("elsewhere", tenant_b, "viewer")
    device = make_device(tenant_a, "rented")
    with schema_context(tenant_a.schema_name):
        place = Place.objects.create(key="house", name="house")
    form = {"account": "ANNA@example.com", "role": "viewer", "selector_places": [place.pk]}
    form |= {"selector_tags": "rented, north", "selector_devices": f" {str(device.uuid).upper()}\n"}
    assert members.post("add/", form).status_code == 302
    added = member("anna")
    assert (added.role, added.selector) == (
        "viewer", {"places": [place.pk], "tags": ["north", "rented"], "devices": [str(device.uuid)]},
    )  # fmt: skip
    listed = members.get().content.decode()
    assert "anna@example.com" in listed
    assert "elsewhere" not in listed
    page = members.get(f"{added.pk}/change/").content.decode()
    assert "north, rented" in page
    assert str(device.uuid) in page

    assert members.post(f"{added.pk}/change/", {"role": "operator", "selector_tags": "own"}).status_code == 302
    assert (member("anna").role, member("anna").selector) == ("operator", {"tags": ["own"]})
    assert members.get(f"{added.pk}/remove/").status_code == 200
    assert members.post(f"{added.pk}/remove/").status_code == 302
    assert not Membership.objects.filter(user__username="anna").exists()
    with schema_context(tenant_a.schema_name):
        entries = AuditEntry.objects.filter(object_type="tenants.membership").order_by("id")
        assert list(entries.values_list("action", "user_label")) == [
            ("add", "an-admin"), ("change", "an-admin"), ("remove", "an-admin"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"account": "absent"}, "There is no active account absent"),
        ({"account": "free", "selector_tags": "Upper"}, "not a valid tag"),
        ({"account": "free", "selector_devices": "x"}, "These do not exist: x."),
        ({"account": "free", "role": "owner", "selector_tags": "own"}, ""),
    ],
)
def test_a_form_that_cannot_be_saved(members: Pages, form: dict[str, str], text: str) -> None:
    make_user("free")
    answer = members.post("add/", {"role": "viewer", **form}, follow=True)
    assert text in answer.content.decode()
    assert not Membership.objects.filter(user__username="free").exists()


def test_an_administrator_cannot_touch_an_owner(members: Pages) -> None:
    owner = member("owner-alpha")
    answer = members.post(f"{owner.pk}/change/", {"role": "viewer"}, follow=True)
    assert "Only an owner can give or take the role owner" in answer.content.decode()
    answer = members.client.post(f"{members.root}{owner.pk}/remove/", follow=True)
    assert "Only an owner can give or take the role owner" in answer.content.decode()
    assert member("owner-alpha").role == "owner"


def test_the_last_owner_stays(tenant_a: Any, db: None) -> None:
    owner = User.objects.get(username="owner-alpha")
    pages = Pages(f"{ADMIN}tenants/membership/", owner)
    answer = pages.post(f"{member('owner-alpha').pk}/remove/", follow=True)
    assert "is the last owner of the tenant" in answer.content.decode()
    assert member("owner-alpha").role == "owner"


def test_a_member_of_another_tenant_is_not_there(members: Pages, tenant_b: Any) -> None:
    other = Membership.objects.get(user=make_user("elsewhere", tenant_b, "viewer"))
    assert members.get(f"{other.pk}/change/").status_code == 302
    assert members.post(f"{other.pk}/remove/").status_code == 404
    assert member("elsewhere").role == "viewer"


def test_a_selector_of_a_removed_place_is_kept_when_the_role_is_changed(members: Pages, tenant_a: Any) -> None:
    make_user("customer", tenant_a, "viewer")
    Membership.objects.filter(user__username="customer").update(selector={"places": [999_999]})
    assert members.post(f"{member('customer').pk}/change/", {"role": "operator"}).status_code == 302
    assert (member("customer").role, member("customer").selector) == ("operator", {"places": [999_999]})


def test_an_api_key_is_issued_with_a_selector(tenant_a: Any, db: None) -> None:
    pages = Pages(f"{ADMIN}devices/apikey/", make_user("an-admin", tenant_a, "admin"))
    answer = pages.post("add/", {"name": "customer", "scope": "read", "selector_tags": "rented"})
    assert answer.status_code == 200, answer.content
    with schema_context(tenant_a.schema_name):
        assert ApiKey.objects.get(name="customer").selector == {"tags": ["rented"]}
