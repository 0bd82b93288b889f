"""The public side: tenants for the platform's staff, and the probes."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client, override_settings
from django_redis import get_redis_connection
from django_tenants.utils import schema_context, schema_exists

from devices.models import Unit
from tenants.models import Domain, Membership, Tenant, User
from tenants.services.roles import role_of
from tests.factories import issue_key, make_user

from .client import HANDLER, Api, problems
from .test_isolation import endpoints_of

TENANTS = "/api/v1/tenants/"
# Their access: tests/api/test_staff.py.
STAFF_ENDPOINTS = {
    ("GET", "api/v1/tenants/"), ("POST", "api/v1/tenants/"), ("GET", "api/v1/tenants/<str:slug>/"),
    ("PATCH", "api/v1/tenants/<str:slug>/"), ("POST", "api/v1/tenants/<str:slug>/suspend/"),
    ("POST", "api/v1/tenants/<str:slug>/resume/"), ("GET", "api/v1/plans/"), ("GET", "api/v1/service-keys/"),
    ("POST", "api/v1/service-keys/"), ("DELETE", "api/v1/service-keys/<int:id>/"),
}  # fmt: skip
PASSWORD = "correct horse battery"


def basic(username: str, password: str = PASSWORD) -> Client:
    token = b64encode(f"{username}:{password}".encode()).decode()
    client = Client(headers={"Authorization": f"Basic {token}"})
    client.handler = HANDLER
    return client


def session(user: Any) -> Client:
    client = Client()
    client.handler = HANDLER
    client.force_login(user)
    return client


@pytest.fixture
def staff(db: None, tenant_a: Any) -> Iterator[Client]:
    """A superuser by HTTP Basic."""
    redis = get_redis_connection("default")
    yield basic(make_user("root", password=PASSWORD, is_superuser=True).username)
    for key in redis.scan_iter("gwanje:count:public:*"):
        redis.delete(key)


def post(client: Client, **body: Any) -> Any:
    return client.post(TENANTS, body, content_type="application/json")


def test_who_reaches_the_tenants(staff: Client, tenant_a: Any) -> None:
    """Every endpoint of the public side × who."""
    assert set(endpoints_of("config.urls_public")) == {
        *STAFF_ENDPOINTS, ("GET", "api/schema/"), ("GET", "api/docs/"),
        ("GET", "api/docs/errors/"),
        ("POST", "api/v1/provisioning/credentials/"),  # tests/api/test_claims.py
    }  # fmt: skip
    expected = {
        "nobody": (401, 401),
        "a key of a tenant": (401, 401),
        "a wrong password": (401, 401),
        "a member": (403, 403),
        "staff, not superuser": (403, 403),
        "a superuser by session": (200, 400),
        "a superuser by password": (200, 400),
    }
    ask = {
        "nobody": Client(),
        "a key of a tenant": Client(headers={"Authorization": f"Bearer {issue_key(tenant_a)}"}),
        "a wrong password": basic("root", "wrong"),
        "a member": session(make_user("member", tenant_a, "admin")),
        "staff, not superuser": session(make_user("staff", is_staff=True)),
        "a superuser by session": session(make_user("root2", is_superuser=True)),
        "a superuser by password": staff,
    }
    got = {who: (client.get(TENANTS), post(client)) for who, client in ask.items()}
    assert {who: tuple(answer.status_code for answer in answers) for who, answers in got.items()} == expected
    assert all(problems(answer) for answers in got.values() for answer in answers if answer.status_code >= 400)
    assert got["nobody"][0]["WWW-Authenticate"].startswith("Basic")
    for path in ("/api/schema/", "/api/docs/", "/api/docs/errors/"):
        assert Client().get(path).status_code == 200


def test_a_superuser_who_is_made_inactive_is_let_in_no_more(staff: Client) -> None:
    User.objects.filter(username="root").update(is_active=False)
    assert staff.get(TENANTS).status_code == 401


def test_a_tenant_is_created_with_its_schema_and_its_administrator(staff: Client) -> None:
    owner = make_user("grower")
    answer = post(staff, slug="new-farm", name="New farm", domain="Farm.Example.com", owner="grower")
    assert answer.status_code == 201
    assert answer.json() == answer.json() | {
        "slug": "new-farm", "name": "New farm", "state": "active", "domains": ["farm.example.com"],
    }  # fmt: skip
    tenant = Tenant.objects.get(slug="new-farm")
    assert schema_exists(tenant.schema_name)
    assert role_of(owner, tenant) == Membership.Role.OWNER
    with schema_context(tenant.schema_name):
        assert Unit.objects.filter(symbol="°C").exists()
    assert session(owner).get("/t/new-farm/api/v1/units/").status_code == 200
    assert "new-farm" in [row["slug"] for row in staff.get(TENANTS).json()["results"]]


def test_a_tenant_whose_creation_failed_is_resumed(staff: Client) -> None:
    Tenant.objects.create(slug="half", name="Half", schema_name="t_half", state=Tenant.State.FAILED)
    Domain.objects.create(domain="half.example.com", tenant=Tenant.objects.get(slug="half"), is_primary=True)
    assert post(staff, slug="half", name="Half", domain="half.example.com").status_code == 201
    assert Tenant.objects.get(slug="half").state == "active"


@pytest.mark.parametrize(
    ("body", "status", "attr", "text"),
    [
        ({"slug": "alpha", "name": "x"}, 409, "slug", "slug 'alpha' already"),
        ({"slug": "Has Spaces", "name": "x"}, 400, "slug", "lower-case letters"),
        ({"slug": "fine"}, 400, "name", "required"),
        ({"slug": "fine", "name": "x", "owner": "nobody"}, 400, "owner", "There is no active user nobody"),
        ({"slug": "fine", "name": "x", "domain": "not a host"}, 400, "domain", "Give a host name"),
        ({"slug": "fine", "name": "x", "domain": "iot.example.com"}, 400, "domain", "platform's own address"),
        ({"slug": "fine", "name": "x", "domain": "taken.example.com"}, 409, "domain", "belongs to another tenant"),
        ({"slug": "fine", "name": "x", "plan": "gold"}, 400, "plan", "'plan' is not a known member"),
    ],
)
def test_a_tenant_that_cannot_be_created_says_what_to_mend(
    staff: Client, tenant_a: Any, settings: Any, body: dict[str, str], status: int, attr: str | None, text: str
) -> None:
    settings.PUBLIC_URL = "https://iot.example.com"
    Domain.objects.create(domain="taken.example.com", tenant=tenant_a, is_primary=True)
    answer = post(staff, **body)
    assert answer.status_code == status
    assert text in problems(answer)[attr]
    assert not Tenant.objects.filter(slug="fine").exists()


def test_guessing_passwords_is_slowed_down(staff: Client) -> None:
    wrong = basic("root", "wrong")
    assert [wrong.get(TENANTS).status_code for _ in range(12)] == [401] * 10 + [429] * 2
    assert staff.get(TENANTS).status_code == 429  # the right one too, from the same address
    assert basic("another-user", "wrong").get(TENANTS).status_code == 401


def test_the_probes_say_what_answers_and_name_no_address(db: None, tenant_a: Any, settings: Any) -> None:
    client = Client()
    assert client.get("/healthz", headers={"Host": "10.0.0.7:8000"}).json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert ready.json()["parts"].keys() == {"postgresql", "connections", "migrations", "redis", "vault"}
    settings.VAULT_ADDR = "http://127.0.0.1:9"
    degraded = client.get("/readyz")
    assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
    assert degraded.json()["parts"]["vault"] == {"ok": False, "needed": False}
    assert "127.0.0.1" not in degraded.content.decode()
    assert client.post("/healthz").status_code == 405
    assert django_settings.VAULT_ADDR not in ready.content.decode()


def test_figures_are_in_prometheus_form(db: None) -> None:
    from tenants.infrastructure import metrics

    metrics.record({"checker_behind_seconds": 0}, {"ingest_batches_total": 1})
    metrics.record({"ingest_waiting": 0}, process="a listener")
    for process in ("one", "two"):
        metrics.record({"test_behind_seconds": 1.5}, {"test_things_total": 2})
        metrics.record({"test_waiting": 3}, process=f"a {process}")
    answer = Client().get("/metrics", headers={"Host": "10.0.0.7:8000"})
    lines = answer.content.decode().splitlines()
    assert answer["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "gwanje_test_behind_seconds 1.5" in lines
    assert "# TYPE gwanje_test_things_total counter" in lines
    assert "gwanje_test_things_total 4.0" in lines
    assert 'gwanje_test_waiting{process="a two"} 3.0' in lines
    assert "gwanje_redis_up 1.0" in lines
    for name in ("checker_behind_seconds", "ingest_batches_total", "ingest_waiting"):
        assert f"# HELP gwanje_{name} {metrics.HELP_TEXTS[name]}" in lines


def test_figures_that_redis_has_are_missed_without_it(db: None, settings: Any) -> None:
    away = settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:9/0"}
    with override_settings(CACHES={"default": away}):
        answer = Client().get("/metrics")
    assert answer.status_code == 200
    assert "gwanje_redis_up 0.0" in answer.content.decode().splitlines()


@pytest.mark.parametrize(
    ("token", "request_", "status"),
    [
        ("", {}, 200),
        ("", {"REMOTE_ADDR": "::1"}, 200),
        ("", {"REMOTE_ADDR": "10.0.0.7"}, 403),
        ("", {"REMOTE_ADDR": ""}, 403),
        ("", {"HTTP_X_FORWARDED_FOR": "10.0.0.7"}, 403),
        ("", {"HTTP_FORWARDED": "for=10.0.0.7"}, 403),
        ("", {"HTTP_AUTHORIZATION": "Bearer "}, 200),
        ("s3cret", {}, 401),
        ("s3cret", {"HTTP_AUTHORIZATION": "Bearer s3cre"}, 401),
        ("s3cret", {"HTTP_AUTHORIZATION": "Bearer s3crét"}, 401),
        ("s3cret", {"HTTP_AUTHORIZATION": "Bearer s3cret", "REMOTE_ADDR": "10.0.0.7"}, 200),
    ],
)
def test_figures_name_tenants_so_that_not_everybody_reads_them(
    db: None, settings: Any, token: str, request_: dict[str, str], status: int
) -> None:
    settings.METRICS_TOKEN = token
    answer = Client().get("/metrics", **request_)  # type: ignore[arg-type]
    assert answer.status_code == status
    assert (b"gwanje_" in answer.content) == (status == 200)
    assert ("WWW-Authenticate" in answer) == (status == 401)


def test_a_member_who_is_made_inactive_is_let_in_no_more(api: Api, tenant_a: Any) -> None:
    user = make_user("leaver", tenant_a, "admin")
    leaver = Api(tenant_a.slug, user=user)
    assert leaver.get("devices/").status_code == 200
    user.is_active = False
    user.save()
    assert leaver.get("devices/").status_code == 401


def test_without_a_migration_the_process_is_not_ready(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenants.api.views import health

    client = Client()
    on_disk = health._migrations_on_disk()
    assert len(on_disk) > 50
    monkeypatch.setattr(health, "_migrated_until", 0.0)
    monkeypatch.setattr(health, "_migrations_on_disk", lambda: on_disk | {("tenants", "9999_of_tomorrow")})
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["parts"]["migrations"]) == (503, {"ok": False, "needed": True})
    assert "9999" not in answer.content.decode()
    monkeypatch.setattr(health, "_migrations_on_disk", lambda: on_disk)
    assert client.get("/readyz").status_code == 200
    monkeypatch.setattr(health, "_migrations_on_disk", frozenset)
    assert health._migrated_until > 0, "the files are not compared again at each request"


def test_while_requests_wait_for_all_connections_the_process_is_not_ready(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenants.api.views import health

    stats = {"pool_max": 8, "pool_size": 8}

    class Pool:
        def get_stats(self) -> dict[str, int]:
            return stats

    monkeypatch.setattr(health, "_pool", Pool)
    for free, waiting, status in ((0, 8, 503), (0, 3, 200), (5, 0, 200)):
        stats |= {"pool_available": free, "requests_waiting": waiting}
        assert Client().get("/readyz").status_code == status
