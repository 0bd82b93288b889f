"""Staff's console and the first page."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission
from django.utils import timezone

from tenants.infrastructure import hooks
from tenants.infrastructure.tenant_failures import clear_failures, record_failures
from tenants.models import Domain, Membership, OverflowMessage, Tenant, UnroutedMessage, User
from tests.factories import make_user
from tests.pages.client import PASSWORD, Pages, formset

CONSOLE = "/admin/"


@pytest.fixture
def root(db: None) -> User:
    return make_user("root-of-console", is_superuser=True, is_staff=True)


@pytest.fixture
def console(root: User) -> Pages:
    return Pages(CONSOLE, root)


def fails() -> None:
    """An installer that does what a full disk does."""
    raise OSError("no space left on device")


# --- who may enter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        ({"is_superuser": True}, 200),
        ({"is_staff": True}, 200),
        ({}, 302),
        ({"is_superuser": True, "is_staff": True, "is_active": False}, 302),
    ],
)
def test_the_console_is_for_staff(db: None, flags: dict[str, Any], status: int) -> None:
    assert Pages(CONSOLE, make_user("person", **flags)).get().status_code == status


def test_a_member_is_told_that_the_console_is_not_theirs(tenant_a: Tenant, db: None) -> None:
    answer = Pages(CONSOLE).post("login/", {"username": "owner-alpha", "password": PASSWORD})
    assert "does not belong to the platform&#x27;s staff" in answer.content.decode()


def test_nothing_of_a_tenants_schema_is_on_the_console(db: None) -> None:
    from tenants.admin import console

    assert {model._meta.app_label for model in console._registry} == {"tenants", "auth", "django_q"}


def test_every_list_of_the_console_opens(console: Pages, tenant_a: Tenant) -> None:
    from tenants.admin import console as site

    for model in site._registry:
        path = f"{model._meta.app_label}/{model._meta.model_name}/"
        assert console.get(path).status_code == 200, path
    assert "Tenants: active" in console.get().content.decode()


@pytest.mark.parametrize(
    "path",
    [
        "tenants/deviceroute/",
        "tenants/unroutedmessage/",
        "django_q/success/",
        "django_q/failure/",
        "django_q/schedule/",
        "django_q/ormq/",
    ],
)
def test_what_is_only_looked_at(console: Pages, path: str) -> None:
    assert console.get(path + "add/").status_code == 403


def test_staff_cannot_make_themselves_superusers(db: None, root: User) -> None:
    clerk = make_user("a-clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=("view_user", "change_user")))
    pages = Pages(CONSOLE, clerk)
    member = make_user("a-member")
    assert pages.get(f"tenants/user/{member.pk}/change/").status_code == 200
    form = {"username": "renamed", "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    answer = pages.post(f"tenants/user/{member.pk}/change/", form | formset("memberships"))
    assert answer.status_code == 302
    member.refresh_from_db()
    assert (member.username, member.is_superuser, member.is_staff) == ("renamed", False, False)
    for user in (clerk, root):
        assert pages.post(f"tenants/user/{user.pk}/change/", form).status_code == 403
        assert pages.get(f"tenants/user/{user.pk}/password/").status_code == 403


# --- tenants ----------------------------------------------------------------------------------------------


def test_creating_a_tenant_that_fails_says_so_and_can_be_tried_again(
    console: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = make_user("an-owner")
    with monkeypatch.context() as patch:
        patch.setattr(hooks.new_tenant, "entries", [(0, fails)])
        answer = console.post("tenants/tenant/add/", {"slug": "unlucky", "name": "Unlucky"}, follow=True)
    assert "no space left on device" in answer.content.decode()
    tenant = Tenant.objects.get(slug="unlucky")
    assert tenant.state == Tenant.State.FAILED

    again = f"tenants/tenant/{tenant.pk}/try_again/"
    assert "Owner" in console.get(again).content.decode()
    answer = console.post(again, {"owner": "an-owner", "domain": "Unlucky.Example.COM"}, follow=True)
    assert "is ready" in answer.content.decode()
    tenant.refresh_from_db()
    assert tenant.state == Tenant.State.ACTIVE
    assert Membership.objects.get(tenant=tenant, user=owner).role == Membership.Role.OWNER
    assert Domain.objects.get(tenant=tenant).domain == "unlucky.example.com"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"slug": "alpha"}, "A tenant with this slug already exists."),
        ({"slug": "Not A Slug"}, "Use 1 to 48 lower-case letters"),
        ({"owner": "absent-user"}, "There is no account with this user name."),
        ({"domain": "http://x/"}, "Enter only a host name"),
        ({"domain": "taken.example.com"}, "This host name belongs to another tenant."),
    ],
)
def test_the_form_says_what_to_mend(console: Pages, tenant_a: Tenant, values: dict[str, str], text: str) -> None:
    Domain.objects.create(domain="taken.example.com", tenant=tenant_a)
    answer = console.post("tenants/tenant/add/", {"slug": "fine", "name": "Fine", **values})
    assert text in answer.content.decode()
    assert not Tenant.objects.filter(slug="fine").exists()


def test_an_incomplete_tenant_is_discarded_and_a_complete_one_is_not(console: Pages, tenant_a: Tenant) -> None:
    half = Tenant.objects.create(slug="half", name="Half", schema_name="t_half", state=Tenant.State.FAILED)
    console.post(f"tenants/tenant/{half.pk}/discard/")
    assert not Tenant.objects.filter(slug="half").exists()
    answer = console.post(f"tenants/tenant/{tenant_a.pk}/discard/", follow=True)
    assert "Only a tenant whose creation is incomplete can be discarded" in answer.content.decode()
    assert console.get(f"tenants/tenant/{tenant_a.pk}/delete/").status_code == 403


def test_asking_changes_nothing(console: Pages, tenant_a: Tenant) -> None:
    for action in ("suspend", "resume", "try_again", "discard"):
        assert console.get(f"tenants/tenant/{tenant_a.pk}/{action}/").status_code == 200
    tenant_a.refresh_from_db()
    assert tenant_a.state == Tenant.State.ACTIVE


# --- messages of no tenant --------------------------------------------------------------------------------


def test_a_message_of_no_tenant_is_readable(console: Pages) -> None:
    now = timezone.now()
    row = UnroutedMessage.objects.create(
        fingerprint=uuid4(),
        reason="unknown_device",
        detail="No tenant has this device.",
        topic="telemetry/absent/x/dht22",
        payload=b'{"name": "<b>caf\xc3\xa9</b>"}',
        first_received_at=now,
        last_received_at=now,
    )
    page = console.get(f"tenants/unroutedmessage/{row.pk}/change/").content.decode()
    assert "&lt;b&gt;café&lt;/b&gt;" in page
    assert "telemetry/absent/x" in console.get("tenants/unroutedmessage/?q=absent").content.decode()
    assert "telemetry/absent/x" not in console.get("tenants/unroutedmessage/?reason=malformed").content.decode()


def test_a_tenant_that_is_locked_for_long_is_told_of(console: Pages, tenant_a: Tenant) -> None:
    assert 'id="overflow"' not in console.get().content.decode()
    now = timezone.now()
    for schema in (tenant_a.schema_name, "t_removed"):
        for hours in (1, 2):
            OverflowMessage.objects.create(
                schema_name=schema, topic="telemetry/x/y/z", payload=b"{}", received_at=now - timedelta(hours=hours)
            )
    page = console.get().content.decode()
    _before, _found, panel = page.partition('id="overflow"')
    panel = panel.partition("</section>")[0]
    assert panel.index(">alpha<") < panel.index(">t_removed<")
    assert f"{now - timedelta(hours=2):%Y-%m-%d %H:%M:%S} UTC" in panel


def test_failing_work_of_a_tenant_is_shown_with_its_error(console: Pages, tenant_a: Tenant) -> None:
    assert 'id="failing"' not in console.get().content.decode()
    record_failures("ingest", {tenant_a.schema_name: 'relation "<b>telemetry_message" does not exist'}, 60)
    try:
        page = console.get().content.decode()
    finally:
        clear_failures("ingest", [tenant_a.schema_name])
    panel = page.partition('id="failing"')[2].partition("</section>")[0]
    assert ">alpha<" in panel
    assert "&lt;b&gt;telemetry_message" in panel


# --- the first page ---------------------------------------------------------------------------------------


def test_the_first_page_lists_what_one_may_enter(tenant_a: Tenant, tenant_b: Tenant, root: User) -> None:
    member = Pages("/", make_user("a-visitor", tenant_a, "viewer")).get().content.decode()
    assert "/t/alpha/" in member
    assert "/t/beta-farm/" not in member
    assert 'href="/admin/"' not in member
    staff = Pages("/", root).get().content.decode()
    assert "/t/alpha/" in staff
    assert "/t/beta-farm/" in staff
    assert 'href="/admin/"' in staff
    assert "no role in any tenant" in Pages("/", make_user("newcomer")).get().content.decode()


@pytest.mark.parametrize(
    ("state", "status", "text"), [("suspended", 503, "is closed at the moment"), ("failed", 404, "There is no tenant")]
)
def test_a_tenant_that_is_not_open_has_a_page_that_says_so(
    tenant_a: Tenant, db: None, state: str, status: int, text: str
) -> None:
    Tenant.objects.filter(pk=tenant_a.pk).update(state=state)
    answer = Pages("/t/alpha/").get()
    assert answer.status_code == status
    assert text in answer.content.decode()


def test_an_address_that_is_none(db: None) -> None:
    answer = Pages("/").get("no-such-page/")
    assert answer.status_code == 404
    assert "There is nothing at this address." in answer.content.decode()
