"""Signing in: equal answers, limits before hashing, the log and the history."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.hashers import identify_hasher, make_password
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_redis import get_redis_connection

from tenants.infrastructure import password_hashing
from tenants.infrastructure.password_hashing import BoundedArgon2Hasher, HashSlots
from tenants.models import SignIn, User
from tenants.services.sign_in_history import MAX_ADDRESSES, OTHER_ADDRESSES, browser_name, record
from tenants.services.sign_in_throttle import ACCOUNT_ATTEMPTS, ADDRESS_ATTEMPTS, PAIR_ATTEMPTS, SUCCESSES
from tests.factories import make_user

from .client import _HANDLER, ADMIN, PASSWORD

FORMS = {"first page": "/", "console": "/admin/login/", "tenant": f"{ADMIN}login/"}


@pytest.fixture(autouse=True)
def no_counts(db: None, one_window: None, tenant_a: Any) -> Iterator[None]:
    yield
    redis = get_redis_connection("default")
    for key in redis.scan_iter("gwanje:count:public:signin:*"):
        redis.delete(key)


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that were computed."""
    computed: list[str] = []
    for name in ("encode", "verify"):
        plain = getattr(BoundedArgon2Hasher, name)

        def counted(self: Any, *args: Any, plain: Any = plain, name: str = name) -> Any:
            computed.append(name)
            return plain(self, *args)

        monkeypatch.setattr(BoundedArgon2Hasher, name, counted)
    return computed


def browser() -> Client:
    client = Client()
    client.handler = _HANDLER
    return client


def sign_in(path: str, username: str, password: str, client: Client | None = None, address: str = "192.0.2.1") -> Any:
    return (client or browser()).post(path, {"username": username, "password": password}, REMOTE_ADDR=address)


def errors(answer: Any) -> list[str]:
    return list(answer.context["form"].non_field_errors())


def test_a_member_signs_in_everywhere_but_the_console(tenant_a: Any) -> None:
    make_user("member", tenant_a, "viewer", password=PASSWORD)
    statuses = {place: sign_in(path, "member", PASSWORD).status_code for place, path in FORMS.items()}
    assert statuses == {"first page": 302, "console": 200, "tenant": 302}


@pytest.mark.parametrize("place", ["console", "tenant"])
def test_a_right_password_without_access_is_answered_like_a_wrong_one(
    place: str, tenant_b: Any, hashes: list[str]
) -> None:
    make_user("stranger", tenant_b, "admin", password=PASSWORD)
    make_user("left", tenant_b, "admin", password=PASSWORD, is_active=False)
    answers = {}
    for username, password in (("stranger", PASSWORD), ("stranger", "wrong"), ("left", PASSWORD), ("made up", "x")):
        hashes.clear()
        with CaptureQueriesContext(connection) as queries:
            answer = sign_in(FORMS[place], username, password)
        asked = [query["sql"].split()[0] for query in queries if not query["sql"].startswith("SET search_path")]
        answers[username, password] = (answer.status_code, errors(answer), len(hashes), asked, list(answer.cookies))
    first, *others = answers.values()
    assert all(other == first for other in others), answers
    assert first[0] == 200
    assert "not correct, or the account" in first[1][0]
    assert first[2] == 1


def test_wrong_passwords_are_rejected_before_they_are_hashed(tenant_a: Any, hashes: list[str]) -> None:
    make_user("member", tenant_a, "viewer", password=PASSWORD)
    hashes.clear()
    statuses = [sign_in(FORMS["tenant"], "member", "wrong").status_code for _ in range(PAIR_ATTEMPTS + 3)]
    assert statuses == [200] * PAIR_ATTEMPTS + [429] * 3
    assert len(hashes) == PAIR_ATTEMPTS
    rejected = sign_in(FORMS["tenant"], "member", PASSWORD)
    assert rejected.status_code == 429
    assert 1 <= int(rejected["Retry-After"]) <= 60
    assert "Try again in" in errors(rejected)[0]
    # One count for all forms and the API, and none for another account or another address.
    assert sign_in(FORMS["first page"], "member", PASSWORD).status_code == 429
    make_user("neighbour", tenant_a, "viewer", password=PASSWORD)
    assert sign_in(FORMS["tenant"], "neighbour", PASSWORD).status_code == 302
    assert sign_in(FORMS["tenant"], "member", PASSWORD, address="198.51.100.7").status_code == 302


def test_a_success_is_no_failure_and_has_a_limit_of_its_own(tenant_a: Any, hashes: list[str]) -> None:
    make_user("member", tenant_a, "viewer", password=PASSWORD)
    hashes.clear()
    statuses = [sign_in("/", "member", PASSWORD).status_code for _ in range(SUCCESSES + 3)]
    assert statuses == [302] * SUCCESSES + [429] * 3
    assert len(hashes) == SUCCESSES


def test_an_address_that_tries_many_accounts_is_rejected_but_for_those_it_signed_in_to(
    tenant_a: Any, hashes: list[str]
) -> None:
    for name in ("at home", "newcomer"):
        make_user(name, tenant_a, "viewer", password=PASSWORD)
    assert sign_in("/", "at home", PASSWORD).status_code == 302
    hashes.clear()
    for number in range(ADDRESS_ATTEMPTS + 5):
        sign_in("/", f"made up {number}", "wrong")
    assert len(hashes) == ADDRESS_ATTEMPTS
    assert sign_in("/", "newcomer", PASSWORD).status_code == 429
    assert sign_in("/", "at home", PASSWORD).status_code == 302
    assert sign_in("/", "newcomer", PASSWORD, address="198.51.100.7").status_code == 302
    assert not any("made up" in key.decode() for key in get_redis_connection("default").scan_iter("gwanje:count:*"))


def test_an_account_that_many_addresses_attack_stays_open_to_its_owner(tenant_a: Any, hashes: list[str]) -> None:
    make_user("target", tenant_a, "viewer", password=PASSWORD)
    assert sign_in("/", "target", PASSWORD, address="192.0.2.99").status_code == 302
    travelling = browser()
    assert sign_in("/", "target", PASSWORD, travelling).status_code == 302
    hashes.clear()
    for number in range(ACCOUNT_ATTEMPTS + 5):
        sign_in("/", "target", "wrong", address=f"10.0.{number // 200}.{number % 200}")
    assert len(hashes) == ACCOUNT_ATTEMPTS
    assert sign_in("/", "target", PASSWORD, address="203.0.113.5").status_code == 429
    assert sign_in("/", "target", PASSWORD, address="192.0.2.99").status_code == 302  # it signed in from there before
    assert sign_in("/", "target", PASSWORD, travelling, address="203.0.113.5").status_code == 302  # the browser did


def test_a_neighbour_who_guesses_does_not_shut_out_the_owners_browser(tenant_a: Any) -> None:
    make_user("owner", tenant_a, "viewer", password=PASSWORD)
    known = browser()
    assert sign_in("/", "owner", PASSWORD, known).status_code == 302
    for _ in range(PAIR_ATTEMPTS + 1):
        last = sign_in("/", "owner", "wrong")
    assert last.status_code == 429
    assert sign_in("/", "owner", PASSWORD, known).status_code == 302


def test_a_made_up_or_foreign_cookie_opens_nothing(tenant_a: Any) -> None:
    for name in ("owner", "other"):
        make_user(name, tenant_a, "viewer", password=PASSWORD)
    foreign, made_up = browser(), browser()
    assert sign_in("/", "other", PASSWORD, foreign).status_code == 302
    made_up.cookies["browser"] = "WyJhIixbImIiXV0:1xxxxx:forged"
    for _ in range(PAIR_ATTEMPTS):
        sign_in("/", "owner", "wrong")
    assert [sign_in("/", "owner", "wrong", client).status_code for client in (foreign, made_up)] == [429, 429]


def test_counting_goes_on_without_redis(tenant_a: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from redis.exceptions import RedisError

    from tenants.infrastructure import throttling

    def unavailable(_alias: str) -> Any:
        raise RedisError("no Redis")

    monkeypatch.setattr(throttling, "get_redis_connection", unavailable)
    statuses = [sign_in("/", "a user without Redis", "wrong").status_code for _ in range(PAIR_ATTEMPTS + 2)]
    assert statuses == [200] * PAIR_ATTEMPTS + [429] * 2


def test_a_process_that_hashes_enough_answers_503(tenant_a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_user("member", tenant_a, "viewer", password=PASSWORD)
    full = HashSlots(1, max_waiting=0, wait_seconds=1)
    monkeypatch.setattr(password_hashing, "slots", full)
    with full.slot():
        answers = [sign_in(FORMS["tenant"], "member", PASSWORD) for _ in range(PAIR_ATTEMPTS + 2)]
    assert {(answer.status_code, answer["Retry-After"]) for answer in answers} == {(503, "2")}
    assert sign_in(FORMS["tenant"], "member", PASSWORD).status_code == 302


def test_an_old_hash_is_replaced_at_sign_in(tenant_a: Any) -> None:
    user = make_user("long ago", tenant_a, "viewer")
    user.password = make_password(PASSWORD, hasher="pbkdf2_sha256")
    user.save()
    assert sign_in("/", "long ago", "wrong").status_code == 200
    assert identify_hasher(User.objects.get(pk=user.pk).password).algorithm == "pbkdf2_sha256"
    assert sign_in("/", "long ago", PASSWORD).status_code == 302
    assert identify_hasher(User.objects.get(pk=user.pk).password).algorithm == "argon2"
    assert sign_in("/", "long ago", PASSWORD).status_code == 302


def test_every_attempt_is_logged_and_no_password_is(tenant_a: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tenants.services.sign_in")
    make_user("member", tenant_a, "viewer", password=PASSWORD)
    sign_in(FORMS["tenant"], "member", PASSWORD, address="192.0.2.3")
    sign_in(FORMS["console"], "member", PASSWORD)
    sign_in("/", "member", "a wrong one")
    sign_in("/", "my secret typed into the wrong field", "a wrong one")
    for _ in range(PAIR_ATTEMPTS):
        sign_in("/", "member", "a wrong one")
    lines = [entry.getMessage() for entry in caplog.records if entry.name == "tenants.services.sign_in"]
    assert "sign_in result=succeeded place=tenant account='member' address=192.0.2.3" in lines
    assert "sign_in result=not_admitted place=console account='member' address=192.0.2.1" in lines
    assert "sign_in result=wrong_password place=first page account='member' address=192.0.2.1" in lines
    assert any("result=throttled_by_pair" in line for line in lines)
    text = "\n".join(lines)
    assert not any(secret in text for secret in (PASSWORD, "a wrong one", "my secret"))


def test_the_history_counts_by_address_and_is_bounded(tenant_a: Any) -> None:
    user = make_user("member", tenant_a, "viewer", password=PASSWORD)
    sign_in(FORMS["tenant"], "member", PASSWORD)
    sign_in("/", "member", PASSWORD)
    sign_in("/", "member", "wrong", address="2001:db8::1")
    rows = {(row.address, row.succeeded, row.count, row.place) for row in SignIn.objects.filter(user=user)}
    assert rows == {("192.0.2.1", True, 2, "first page"), ("2001:db8::/64", False, 1, "first page")}
    for number in range(MAX_ADDRESSES + 5):
        record(user.pk, f"10.0.{number // 200}.{number % 200}", succeeded=False, browser="", place="api")
    failed = SignIn.objects.filter(user=user, succeeded=False)
    assert failed.count() == MAX_ADDRESSES + 1
    assert failed.get(address=OTHER_ADDRESSES).count == 6
    record(0, "192.0.2.1", succeeded=False, browser="", place="api")  # no account
    assert SignIn.objects.exclude(user=user).filter(address="192.0.2.1", place="api").count() == 0


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox, Linux"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Mobile/15E148 Safari/604.1",
            "Safari, iPhone",
        ),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36 Edg/140.0", "Edge, Windows"),
        ("curl/8.5.0\x1b[31m", "curl/8.5.0[31m"),
        ("x" * 5000, "x" * 60),
        ("", ""),
    ],
)
def test_a_browser_is_named_in_words(user_agent: str, name: str) -> None:
    assert browser_name(user_agent) == name
