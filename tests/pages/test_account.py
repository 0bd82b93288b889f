"""The page of a user's own account: sessions, their end, and the change of the password."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone
from django_redis import get_redis_connection

from devices.api.access import StreamAccess
from tenants.models import Domain, User, UserSession
from tenants.services import user_sessions
from tests.factories import make_user

from .client import _HANDLER, ADMIN, PASSWORD, Pages

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
CHROME = "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36"


@pytest.fixture(autouse=True)
def no_counts(db: None, one_window: None) -> Any:
    yield
    redis = get_redis_connection("default")
    for key in redis.scan_iter("gwanje:count:public:signin:*"):
        redis.delete(key)


@pytest.fixture
def user(tenant_a: Any) -> User:
    return make_user("member", tenant_a, "viewer", password=PASSWORD)


def signed_in(path: str = f"{ADMIN}login/", agent: str = FIREFOX, address: str = "192.0.2.1") -> Client:
    client = Client(headers={"User-Agent": agent})
    client.handler = _HANDLER
    answer = client.post(path, {"username": "member", "password": PASSWORD}, REMOTE_ADDR=address)
    assert answer.status_code == 302
    return client


def may_enter(client: Client) -> bool:
    return client.get(ADMIN).status_code == 200


def test_sessions_are_listed_with_address_and_browser_and_not_with_their_key(user: User) -> None:
    here, _there = signed_in(), signed_in(agent=CHROME, address="2001:db8::1")
    for path in ("/account/", "/t/alpha/account/"):
        page = here.get(path)
        listed = {(row.address, row.browser, row.is_current) for row in page.context["sessions"]}
        assert listed == {("192.0.2.1", "Firefox, Linux", True), ("2001:db8::/64", "Chrome, Windows", False)}
        assert "Firefox, Linux" in page.content.decode()
        assert not any(row.session_key in page.content.decode() for row in UserSession.objects.all())
    assert not Session.objects.exists()


def test_one_session_is_ended_and_the_others_stay(user: User) -> None:
    here, there = signed_in(), signed_in(agent=CHROME)
    other = next(row for row in here.get("/account/").context["sessions"] if not row.is_current)
    page = here.post("/account/", {"session": other.id}, follow=True)
    assert "The session was ended." in page.content.decode()
    assert (may_enter(here), may_enter(there)) == (True, False)
    again = here.post("/account/", {"session": other.id}, follow=True)
    assert "already ended" in again.content.decode()


def test_a_user_cannot_end_another_users_session(user: User, tenant_a: Any) -> None:
    mine = signed_in()
    listed = user_sessions.sessions_of(user)[0]
    stranger = Pages("/account/", make_user("stranger", tenant_a, "admin"))
    assert stranger.post("", {"session": listed.id}).status_code == 302
    assert may_enter(mine)


def test_signing_out_everywhere_ends_all_sessions(user: User) -> None:
    here, there = signed_in(), signed_in(agent=CHROME)
    assert here.post("/account/", {"everywhere": "1"}).status_code == 302
    assert (may_enter(here), may_enter(there)) == (False, False)
    assert not UserSession.objects.filter(user=user).exists()


def test_the_end_of_a_session_is_published_to_its_streams(
    user: User, tenant_a: Any, django_capture_on_commit_callbacks: Any
) -> None:
    client = signed_in()
    key = client.session.session_key
    watcher = StreamAccess(tenant_a.pk, user_id=user.pk, session=key or "")
    assert watcher.may_watch()
    pubsub = get_redis_connection("default").pubsub()
    pubsub.psubscribe("*")
    pubsub.get_message(timeout=30)
    with django_capture_on_commit_callbacks(execute=True):
        client.post("/logout/")
    published = [pubsub.get_message(timeout=30) for _ in range(1)]
    pubsub.close()
    assert [json.loads(each["data"])["session"] for each in published if each] == [key]
    assert not watcher.may_watch()


def test_a_changed_password_ends_the_other_sessions(user: User, tenant_a: Any) -> None:
    here, there = signed_in(), signed_in(agent=CHROME)
    assert here.get(f"{ADMIN}password_change/")["Location"] == "/t/alpha/account/password/"
    wrong = here.post("/account/password/", new_password(old="wrong"))
    assert "old password" in wrong.content.decode()
    assert here.post("/account/password/", new_password()).status_code == 302
    assert (may_enter(here), may_enter(there)) == (True, False)
    assert UserSession.objects.filter(user=user).count() == 1


def new_password(old: str = PASSWORD) -> dict[str, str]:
    new = "another correct horse"
    return {"old_password": old, "new_password1": new, "new_password2": new}


def test_guessing_the_old_password_is_limited(user: User) -> None:
    here = signed_in()
    statuses = [here.post("/account/password/", new_password(old="wrong")).status_code for _ in range(12)]
    assert statuses == [200] * 10 + [429] * 2


@pytest.mark.parametrize("how", ["password", "inactive"])
def test_staff_who_change_a_password_or_deactivate_end_the_sessions(user: User, how: str) -> None:
    client = signed_in()
    staff = Pages("/admin/tenants/user/", make_user("root", is_staff=True, is_superuser=True))
    if how == "password":
        data = {"password1": "yet another horse", "password2": "yet another horse", "usable_password": "true"}
        answer = staff.post(f"{user.pk}/password/", data)
    else:
        data = {"username": "member", "memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0"}
        answer = staff.post(f"{user.pk}/change/", data)
    assert answer.status_code == 302
    assert not UserSession.objects.filter(user=user).exists()
    assert not may_enter(client)


def test_staff_end_the_sessions_of_users_whom_they_can_change(user: User) -> None:
    from django.contrib.auth.models import Permission

    client = signed_in()
    support = make_user("support", is_staff=True)
    support.user_permissions.set(Permission.objects.filter(codename__in=["change_user", "view_user"]))
    staff = Pages("/admin/tenants/user/", support)
    boss = Pages("/admin/", make_user("boss", is_staff=True, is_superuser=True))
    chosen = list(User.objects.filter(username__in=["member", "boss"]).values_list("pk", flat=True))
    page = staff.post("", {"action": "sign_out_everywhere", "_selected_action": chosen}, follow=True)
    assert "1 session was ended." in page.content.decode()
    assert not may_enter(client)
    assert boss.get("").status_code == 200


def test_a_session_in_use_notes_the_time_once_in_five_minutes(user: User) -> None:
    client = signed_in()
    rows = UserSession.objects.filter(user=user)
    first = rows.get().last_used_at
    may_enter(client)
    assert rows.get().last_used_at == first
    rows.update(last_used_at=timezone.now() - timedelta(minutes=6))
    may_enter(client)
    assert rows.get().last_used_at >= first


@pytest.mark.parametrize("path", ["/account/", "/t/alpha/account/", "/account/password/"])
def test_others_are_sent_to_the_form(db: None, tenant_a: Any, path: str) -> None:
    answer = Client().get(path)
    assert answer.status_code == 302
    assert answer["Location"] == f"{'/t/alpha/admin/login/' if '/t/' in path else '/'}?next={path.replace('/', '%2F')}"


def test_the_first_page_links_to_the_tenants_in_the_mode_of_the_installation(
    user: User, tenant_a: Any, settings: Any
) -> None:
    def links() -> list[tuple[str, str]]:
        return [(entry["name"], entry["url"]) for entry in here.get("/").context["entries"]]

    here = signed_in("/")
    assert links() == [("Alpha", "/t/alpha/")]
    settings.TENANT_PATHS = False
    assert links() == [("Alpha", "")]
    assert "no host name" in here.get("/").content.decode()
    Domain.objects.create(domain="alpha.example.com", tenant=tenant_a, is_primary=True)
    assert links() == [("Alpha", "http://alpha.example.com/")]
    assert here.get("/t/alpha/").status_code == here.get("/t/absent/").status_code == 404


def test_the_oldest_sessions_end_where_there_are_many(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_sessions, "MAX_SESSIONS", 3)
    clients = [signed_in() for _ in range(5)]
    assert UserSession.objects.filter(user=user).count() <= 4  # the newest is stored after the others are counted
    assert [may_enter(client) for client in (clients[0], clients[-1])] == [False, True]
