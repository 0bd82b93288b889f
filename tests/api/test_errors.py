"""The API's answers to invalid requests, and the limits of requests."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client, override_settings
from django_redis import get_redis_connection

from tenants.infrastructure.throttling import RedisCounter, TenantThrottle
from tenants.models import Tenant
from tests.factories import issue_key, make_device, make_user
from tests.processes import ROOT

from .client import Api, problems


def raw(api: Api, body: bytes, content_type: str = "application/json") -> Any:
    return api._client.post(f"{api.root}devices/", body, content_type=content_type)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "JSON parse error"),
        (b'{"name": NaN}', "JSON parse error"),
        (b'{"name": "\xff"}', "JSON parse error"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"x": ' + b"1" * 5000 + b"}", "JSON parse error - a number has more than 4300 digits"),
        (b"null", "The body must be a JSON object, not null."),
        (b'{"name": -Infinity}', "JSON parse error - -Infinity is not a JSON value"),
        (b'["x"]', 'The value must be a JSON object, not ["x"].'),
        (b"true", "The value must be a JSON object, not true."),
    ],
)
def test_a_body_that_is_no_json(api: Api, body: bytes, text: str) -> None:
    answer = raw(api, body)
    assert answer.status_code == 400
    assert text in problems(answer)[None]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b'{"name": "a", "name": "b"}', [("#/name", "repeated")]),
        (rb'{"name": "a", "\u006eame": "a"}', [("#/name", "repeated")]),
        (
            b'{"name": "a", "components": [{"key": "x"}, {"key": "d", "key": "e"}]}',
            [("#/components/1/key", "repeated")],
        ),
        (b'{"a/b": {"k": 1, "k": 2}, "x": 1, "x": 1}', [("#/x", "repeated"), ("#/a~1b/k", "repeated")]),
        (b'{"hardware_model": -1e999}', [("#/hardware_model", "out_of_range")]),
        (b'{"components": [{"sequence": ' + b"9" * 400 + b".0}]}", [("#/components/0/sequence", "out_of_range")]),
    ],
)
def test_a_member_that_would_count_only_in_part_is_refused(
    api: Api, body: bytes, errors: list[tuple[str, str]]
) -> None:
    answer = raw(api, body)
    assert answer.status_code == 400
    found = [(one["pointer"], one["code"]) for one in answer.json()["errors"]]
    assert sorted(found) == sorted(errors)
    assert api.get("devices/").json()["count"] == 0


def test_of_very_many_repeated_members_the_first_are_named(api: Api) -> None:
    body = b"{" + b", ".join(b'"m%d": 1, "m%d": 2' % (number, number) for number in range(20_000)) + b"}"
    assert len(raw(api, body).json()["errors"]) == 20


def test_the_messages_of_a_device_are_refused_with_a_repeated_member(api: Api) -> None:
    body = b'{"messages": [{"topic": "a", "payload": "b", "payload": "c"}]}'
    answer = api._client.post(f"{api.root}devices/{uuid4()}/messages/", body, content_type="application/json")
    assert [(one["pointer"], one["code"]) for one in answer.json()["errors"]] == [("#/messages/0/payload", "repeated")]


def test_a_body_that_is_too_large_is_not_read(api: Api, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    assert raw(api, b'{"name": "' + b"x" * 50 + b'"}').status_code == 201
    answer = raw(api, b'{"name": "' + b"x" * 100 + b'"}')
    assert answer.status_code == 413
    assert "must not be larger than 100 bytes" in problems(answer)[None]


def test_another_kind_of_body_is_refused(api: Api) -> None:
    answer = raw(api, b"name=x", "application/x-www-form-urlencoded")
    assert answer.status_code == 415
    assert "Unsupported media type" in problems(answer)[None]


def test_a_method_that_is_not_offered(api: Api) -> None:
    for method, path in (("put", "devices/"), ("post", "readings/"), ("delete", "units/")):
        answer = api.send(method, path)
        assert answer.status_code == 405
        assert "not allowed" in problems(answer)[None]


def test_a_missing_last_slash_is_put_there_for_reading_and_named_for_writing(api: Api) -> None:
    answer = api.get("devices", limit=5)
    assert (answer.status_code, answer["Location"]) == (302, "/t/alpha/api/v1/devices/?limit=5")
    answer = api.post("devices", {"name": "x"})
    assert answer.status_code == 404
    assert "The address must end with a slash: /t/alpha/api/v1/devices/" in problems(answer)[None]


def test_a_number_that_no_id_can_be(api: Api) -> None:
    assert api.get(f"units/{10**30}/").status_code == 404


def test_an_answer_is_not_kept_by_caches(api: Api) -> None:
    assert api.get("devices/")["Cache-Control"] == "no-store"
    assert api.post("devices/", {"name": "x"})["Cache-Control"] == "no-store"


def test_a_session_needs_the_csrf_token_to_write(db: None, tenant_a: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user("member", tenant_a, "admin"))
    answer = client.post("/t/alpha/api/v1/devices/", {"name": "x"}, content_type="application/json")
    assert answer.status_code == 403
    assert "CSRF" in problems(answer)[None]
    assert client.get("/t/alpha/api/v1/devices/").status_code == 200


@pytest.mark.parametrize(("state", "status"), [("suspended", 503), ("creating", 503), ("failed", 404)])
def test_a_tenant_that_is_not_in_service_answers_json(api: Api, tenant_a: Any, state: str, status: int) -> None:
    Tenant.objects.filter(pk=tenant_a.pk).update(state=state)
    answer = api.get("devices/")
    assert answer.status_code == status
    assert "'alpha'" in problems(answer)[None]


def test_a_tenant_or_host_that_is_none_answers_json(db: None, tenant_a: Any) -> None:
    for address in ("/t/absent/api/v1/devices/", "/t/UPPER/api/v1/", "/api/v1/devices/"):
        answer = Client().get(address)
        assert answer.status_code == 404
        assert problems(answer).keys() == {None}
    assert "not served here" in problems(Client().get("/api/v1/", headers={"Host": "elsewhere.example"}))[None]


@pytest.fixture
def few_requests(settings: Any, monkeypatch: pytest.MonkeyPatch, tenant_a: Any, tenant_b: Any) -> Iterator[None]:
    """Three requests a minute for each tenant, counted from none, in Redis and in this process."""
    settings.API_REQUESTS_PER_MINUTE = 3
    monkeypatch.setattr(TenantThrottle, "counter", RedisCounter(60))

    def forget() -> None:
        redis = get_redis_connection("default")
        for key in redis.scan_iter("gwanje:count:api:*"):
            redis.delete(key)

    forget()
    yield
    forget()


def test_a_tenant_has_its_own_share_of_requests(db: None, few_requests: None, tenant_a: Any, tenant_b: Any) -> None:
    ours = [
        Api(tenant_a.slug, key=issue_key(tenant_a)),
        Api(tenant_a.slug, user=make_user("viewer", tenant_a, "viewer")),
    ]
    theirs = Api(tenant_b.slug, key=issue_key(tenant_b))
    stranger = Api(tenant_a.slug, key="gwj_wrong")

    assert [stranger.get("units/").status_code for _ in range(5)] == [401] * 5  # and used nothing up
    assert [ours[n % 2].get("units/").status_code for n in range(4)] == [200, 200, 200, 429]
    assert [theirs.get("units/").status_code for _ in range(4)] == [200, 200, 200, 429]
    answer = ours[1].get("units/")
    assert 0 < int(answer["Retry-After"]) <= 60
    assert "throttled" in problems(answer)[None]


def test_without_redis_each_process_counts_alone(db: None, tenant_a: Any, settings: Any, few_requests: None) -> None:
    user = Api(tenant_a.slug, key=issue_key(tenant_a))
    make_device(tenant_a, "still here")
    away = settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:9/0"}
    with override_settings(CACHES={"default": away}):
        answers = [user.get("devices/") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[0].json()["results"][0]["name"] == "still here"


def test_no_more_than_the_limit_pass_at_once(few_requests: None) -> None:
    """Counting is one step in Redis: requests at the same time are not all let through."""
    passed: list[bool] = []

    def ask() -> None:
        passed.append(TenantThrottle().allow_request(None, None))  # type: ignore[arg-type]

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 3


_WITHOUT_DATABASE = """
import json, django
django.setup()
from django.test import Client
client = Client(raise_request_exception=False, headers={"Host": "localhost"})
answers = {path: client.get(path) for path in ("/healthz", "/readyz", "/t/alpha/api/v1/devices/", "/t/alpha/")}
print(json.dumps({path: [a.status_code, a["Content-Type"], a.content.decode()] for path, a in answers.items()}))
"""


def test_while_the_database_is_away_the_answer_is_503_and_the_process_lives(tmp_path: Path) -> None:
    environment = {**os.environ, "DATABASE_URL": "postgres://none@127.0.0.1:9/none", "LOG_LEVEL": "CRITICAL"}
    environment |= {"DJANGO_SETTINGS_MODULE": "config.settings", "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_DATABASE], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    answers = json.loads(done.stdout)
    assert answers["/healthz"][0] == 200
    status, _, body = answers["/readyz"]
    assert (status, json.loads(body)["status"]) == (503, "not ready")
    assert json.loads(body)["parts"]["postgresql"] == {"ok": False, "needed": True}
    assert json.loads(body)["parts"]["redis"]["ok"] is True
    assert "127.0.0.1" not in body
    status, kind, body = answers["/t/alpha/api/v1/devices/"]
    assert (status, kind) == (503, "application/problem+json")
    assert json.loads(body)["code"] == "unavailable"
    assert answers["/t/alpha/"][:2] == [500, "text/html; charset=utf-8"]


def test_an_address_that_is_none_answers_json(db: None, tenant_a: Any) -> None:
    for path in ("/t/alpha/api/v1/nothing/", "/t/alpha/api/v2/devices/", f"/t/alpha/api/v1/devices/{uuid4()}x/"):
        answer = Api("alpha").get(path)
        assert answer.status_code == 404
        assert "There is nothing at" in problems(answer)[None]


def test_answers_say_what_is_left_of_the_limit(db: None, few_requests: None, tenant_a: Any) -> None:
    user = Api(tenant_a.slug, key=issue_key(tenant_a))
    answers = [user.get("units/") for _ in range(4)]
    assert {answer["RateLimit-Policy"] for answer in answers} == {'"tenant";q=3;w=60'}
    found = [re.fullmatch(r'"tenant";r=(\d);t=(\d+)', answer["RateLimit"]) for answer in answers]
    assert [match and match[1] for match in found] == ["2", "1", "0", "0"]
    assert found[3]
    assert 0 < int(found[3][2]) <= 60
    assert abs(int(found[3][2]) - int(answers[3]["Retry-After"])) <= 1


def test_long_pages_count_as_several_requests(db: None, few_requests: None, tenant_a: Any, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = 30
    user = Api(tenant_a.slug, key=issue_key(tenant_a))
    paths = ("units/", "units/?limit=100", "units/?limit=101", "devices/?limit=1000", "messages/?limit=1000")
    left = [int(user.get(path)["RateLimit"].split(";r=")[1].split(";")[0]) for path in paths]
    assert left == [29, 28, 26, 16, 15]
    assert user.get("units/?limit=all").status_code == 400
    settings.API_REQUESTS_PER_MINUTE = 20
    assert user.get("devices/?limit=1000").status_code == 429


def test_a_page_that_is_longer_than_the_limit_is_possible(db: None, few_requests: None, tenant_a: Any) -> None:
    user = Api(tenant_a.slug, key=issue_key(tenant_a))
    assert [user.get("devices/?limit=1000").status_code for _ in range(2)] == [200, 429]


def test_without_a_limit_there_is_nothing_left_to_say(api: Api) -> None:
    answer = api.get("units/")
    assert "RateLimit" not in answer
    assert "RateLimit-Policy" not in answer
