"""`Idempotency-Key`: a POST is carried out once, its answer is repeated, and secrets are stored nowhere."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import get_resolver
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import AuditEntry, Device, DeviceImport, StoredAnswer
from devices.services import idempotency
from telemetry.api.views.http_ingest import DeviceMessagesView
from tests.factories import issue_key, make_user

from .client import Api
from .test_isolation import OK, ROWS, Row, World, endpoints_of, made_world, world  # noqa: F401 (the fixtures)

NEW = {"name": "once", "components": [{"key": "d", "component_type": "dht22"}]}
# A text that cannot be guessed.
_RANDOM = re.compile(r"(?=.*[A-Z0-9].*[A-Z0-9])[A-Za-z0-9_+/=.-]{20,}")


def send(api: Api, path: str, body: Any, key: str) -> Any:
    address = path if path.startswith("/") else api.root + path
    return api._client.post(address, body, content_type="application/json", headers={"Idempotency-Key": key})


def codes(answer: Any) -> list[str]:
    document = answer.json()
    return [document["code"]] if "code" in document else [error["code"] for error in document["errors"]]


def test_the_same_request_is_carried_out_once(api: Api, tenant_a: Any) -> None:
    first, second = send(api, "devices/", NEW, "k-1"), send(api, "devices/", dict(reversed(NEW.items())), "k-1")
    assert (first.status_code, second.status_code) == (201, 201)
    assert "Idempotent-Replayed" not in first
    assert second["Idempotent-Replayed"] == "true"
    assert second.json()["uuid"] == first.json()["uuid"]
    with schema_context(tenant_a.schema_name):
        assert Device.objects.filter(name="once").count() == 1
        assert AuditEntry.objects.filter(action="register", object_label__startswith="once").count() == 1


def test_secrets_are_null_in_a_repeated_answer_and_not_stored(api: Api, tenant_a: Any) -> None:
    first, second = (send(api, "devices/", NEW, "k-1").json() for _ in range(2))
    assert first["credentials"]["secret"]
    assert second == first | {"credentials": first["credentials"] | {"secret": None, "mqtt_password": None}}
    with schema_context(tenant_a.schema_name):
        stored = StoredAnswer.objects.get()
    assert first["credentials"]["secret"] not in stored.body
    assert first["credentials"]["mqtt_password"] not in stored.body


def test_without_a_key_each_request_is_carried_out(api: Api) -> None:
    assert api.post("devices/", NEW).json()["uuid"] != api.post("devices/", NEW).json()["uuid"]


@pytest.mark.parametrize(
    ("path", "body"), [("devices/", NEW | {"name": "other"}), ("hardware-models/", {"name": "once", "version": "1"})]
)
def test_a_key_of_another_request_is_refused(api: Api, path: str, body: Any) -> None:
    assert send(api, "devices/", NEW, "k-1").status_code == 201
    answer = send(api, path, body, "k-1")
    assert (answer.status_code, codes(answer)) == (422, ["idempotency_key_reused"])


def test_a_key_belongs_to_its_caller_and_tenant(api: Api, tenant_a: Any, tenant_b: Any) -> None:
    callers = [
        api,
        Api(tenant_a.slug, key=issue_key(tenant_a)),
        Api(tenant_a.slug, user=make_user("someone", tenant_a, "admin")),
        Api(tenant_b.slug, key=issue_key(tenant_b)),
    ]
    made = [send(caller, "devices/", NEW, "the-same") for caller in callers]
    assert [answer.status_code for answer in made] == [201] * 4
    assert len({answer.json()["uuid"] for answer in made}) == 4


def test_a_refused_request_stores_nothing(api: Api, tenant_a: Any) -> None:
    assert send(api, "devices/", {"name": ""}, "k-1").status_code == 400
    assert send(api, "devices/", NEW, "k-1").status_code == 201
    with schema_context(tenant_a.schema_name):
        assert StoredAnswer.objects.count() == 1


@pytest.mark.parametrize("key", ["", " ", "a" * 256, "é", "a b", 'a"b', '"unclosed'])
def test_an_invalid_key_is_refused(api: Api, key: str) -> None:
    answer = send(api, "devices/", NEW, key)
    assert answer.status_code == 400
    assert "'Idempotency-Key' must be 1 to 255 printable ASCII characters without blanks." in answer.content.decode()


def test_quotation_marks_do_not_belong_to_the_key(api: Api) -> None:
    assert send(api, "devices/", NEW, "k-1").status_code == 201
    assert send(api, "devices/", NEW, '"k-1"')["Idempotent-Replayed"] == "true"


def test_after_a_day_the_key_is_free(api: Api, tenant_a: Any) -> None:
    first = send(api, "devices/", NEW, "k-1").json()["uuid"]
    with schema_context(tenant_a.schema_name):
        StoredAnswer.objects.update(created_at=timezone.now() - idempotency.KEPT - timedelta(seconds=1))
    assert send(api, "devices/", NEW, "k-1").json()["uuid"] != first
    with schema_context(tenant_a.schema_name):
        assert StoredAnswer.objects.count() == 1


def test_expired_answers_are_removed(api: Api, tenant_a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "_REMOVED_AT_ONCE", 2)
    with schema_context(tenant_a.schema_name):
        for number in range(6):
            StoredAnswer.objects.create(caller="key:1", key=str(number), fingerprint="", status=204, body="")
        old = StoredAnswer.objects.exclude(key="5")
        old.update(created_at=timezone.now() - idempotency.KEPT - timedelta(seconds=1))
    assert idempotency.remove_all_expired() == 5
    with schema_context(tenant_a.schema_name):
        assert [row.key for row in StoredAnswer.objects.all()] == ["5"]


def test_a_form_is_the_same_whatever_its_borders(api: Api, tenant_a: Any) -> None:
    def upload(content: bytes) -> Any:
        file = SimpleUploadedFile("devices.csv", content, "text/csv")
        return api._client.post(f"{api.root}devices/import/", {"file": file}, headers={"Idempotency-Key": "upload"})

    first, second = upload(b"name\nimported once\n"), upload(b"name\nimported once\n")
    assert first.status_code == 200, first.content
    assert second["Idempotent-Replayed"] == "true"
    assert second.json()["id"] == first.json()["id"]
    assert upload(b"name\nanother\n").status_code == 422
    with schema_context(tenant_a.schema_name):
        assert DeviceImport.objects.count() == 1


# A message is its own key: sent again, it is a duplicate.
_MESSAGES = "api/v1/devices/{device}/messages/"
_POSTS = [row for row in ROWS if row[0] == "POST" and row[1] not in ("api/v1/provisioning/credentials/", _MESSAGES)]


@pytest.mark.parametrize("row", _POSTS, ids=lambda row: row[1])
def test_every_post_is_carried_out_once_and_stores_no_secret(row: Row, world: World, tenant_a: Any) -> None:  # noqa: F811
    _method, path, who, status, body = row
    filled = {n: v.format(**world.ours) if isinstance(v, str) else v for n, v in (body or {}).items()}
    caller = world.ask["key" if who["key"] == OK else "administrator"].__self__  # type: ignore[attr-defined]
    first, again = (send(caller, f"/t/alpha/{path.format(**world.ours)}", filled, "once") for _ in range(2))
    assert first.status_code == status, first.content
    assert (again.status_code, again["Idempotent-Replayed"]) == (status, "true")
    with schema_context(tenant_a.schema_name):
        stored = StoredAnswer.objects.get()
    if not stored.body:
        assert again.content == first.content == b""
        return
    secrets = set(texts(first.json())) - set(texts(again.json()))
    assert not any(secret in stored.body for secret in secrets)
    assert [text for text in texts(json.loads(stored.body)) if is_random(text)] == []


def test_the_rows_of_secrets_find_them() -> None:
    assert is_random("gwj_0123456789abcdefghijklmnop")
    assert not is_random("7c9e6679-7425-40de-944b-e07fc1f90ae7")
    assert not is_random("2026-11-22T09:30:00.123456Z")


def test_posts_on_the_public_side_refuse_the_header(db: None) -> None:
    posts = {route for method, route in endpoints_of("config.urls_public") if method == "POST"}
    below = {f"api/v1/tenants/<str:slug>/{action}/" for action in ("suspend", "resume")}
    assert posts == {"api/v1/tenants/", "api/v1/provisioning/credentials/", "api/v1/service-keys/", *below}
    headers = {"Idempotency-Key": "k"}
    answer = Client().post("/api/v1/provisioning/credentials/", {}, content_type="application/json", headers=headers)
    assert answer.status_code == 400
    assert "does not accept 'Idempotency-Key'" in answer.content.decode()


def test_every_view_of_the_tenants_with_a_post_accepts_the_header() -> None:
    views = {
        pattern.callback.cls
        for pattern in _patterns(get_resolver("config.urls_api").url_patterns)
        if "post" in (getattr(pattern.callback, "actions", None) or {n: n for n in dir(pattern.callback.cls)})
    }
    assert len(views) > 10
    assert [view for view in views if not view.accepts_idempotency_key] == [DeviceMessagesView]


def _patterns(patterns: Any) -> Iterator[Any]:
    for pattern in patterns:
        yield from _patterns(pattern.url_patterns) if hasattr(pattern, "url_patterns") else [pattern]


def texts(data: Any) -> Iterator[str]:
    """Yield every text of a JSON document."""
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from texts(value)
    elif isinstance(data, str):
        yield data


def is_random(text: str) -> bool:
    """Return whether the text may be a secret: long, without blanks, and neither UUID nor time."""
    try:
        UUID(text)
    except ValueError:
        return bool(_RANDOM.fullmatch(text)) and not re.match(r"\d{4}-\d\d-\d\dT", text)
    return False
