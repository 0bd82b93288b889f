"""CORS: pages of other origins use a tenant's API with a key, and never with cookies."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, ValidationError

from tenants.infrastructure.origins import parse_origins
from tenants.models import Tenant
from tests.factories import make_user

from .client import Api

APP = "https://app.example.com"


def preflight(api: Api, origin: str, path: str = "devices/") -> Any:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    return api._client.options(api.root + path, headers=headers)


def get(api: Api, origin: str, path: str = "units/") -> Any:
    return api._client.get(path if path.startswith("/") else api.root + path, headers={"Origin": origin})


@pytest.fixture
def allowing(tenant_a: Any, db: None) -> None:
    Tenant.objects.filter(pk=tenant_a.pk).update(cors_origins=[APP])


def test_without_origins_there_are_no_headers(api: Api) -> None:
    assert "Access-Control-Allow-Origin" not in get(api, APP)
    refused = preflight(api, APP)
    assert not [name for name in refused.headers if name.startswith("Access-Control-")]


def test_an_origin_of_the_tenant(allowing: None, api: Api, tenant_b: Any) -> None:
    answer = get(api, APP)
    assert answer["Access-Control-Allow-Origin"] == APP
    assert "ETag" in answer["Access-Control-Expose-Headers"]
    assert "Origin" in answer["Vary"]
    other = get(api, "https://other.example.com")
    assert "Access-Control-Allow-Origin" not in other
    assert "Origin" in other["Vary"]
    assert "Access-Control-Allow-Origin" not in get(Api(tenant_b.slug), APP)


def test_an_origin_of_the_setting_is_of_every_tenant(api: Api, tenant_b: Any, settings: Any) -> None:
    settings.CORS_ORIGINS = (APP,)
    assert get(api, APP)["Access-Control-Allow-Origin"] == APP
    assert get(Api(tenant_b.slug), APP)["Access-Control-Allow-Origin"] == APP


def test_a_preflight_request_needs_no_key(allowing: None, tenant_a: Any) -> None:
    answer = preflight(Api(tenant_a.slug), APP)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer["Access-Control-Allow-Origin"] == APP
    for name in ("Authorization", "Idempotency-Key", "If-Match"):
        assert name in answer["Access-Control-Allow-Headers"]
    assert "PATCH" in answer["Access-Control-Allow-Methods"]


def test_errors_can_be_read_too(allowing: None, tenant_a: Any) -> None:
    answer = get(Api(tenant_a.slug, key="gwj_wrong"), APP)
    assert answer.status_code == 401
    assert answer["Access-Control-Allow-Origin"] == APP


@pytest.mark.parametrize("origins", [("*",), (APP,), ("*", APP)])
def test_credentials_are_never_allowed(tenant_a: Any, db: None, settings: Any, origins: tuple[str, ...]) -> None:
    settings.CORS_ORIGINS = origins
    session = Api(tenant_a.slug, user=make_user("a-viewer", tenant_a, "viewer"))
    for answer in (get(session, APP), preflight(session, APP)):
        assert answer["Access-Control-Allow-Origin"] in origins
        assert "Access-Control-Allow-Credentials" not in answer


def test_pages_and_the_public_side_have_none(allowing: None, api: Api, settings: Any) -> None:
    settings.CORS_ORIGINS = ("*",)
    for path in ("/t/alpha/admin/login/", "/api/v1/tenants/", "/"):
        assert "Access-Control-Allow-Origin" not in get(api, APP, path)


@pytest.mark.parametrize(
    "text", ["app.example.com", "https://app.example.com/", "https://App.example.com", "null", "https://a b", "ftp://x"]
)
def test_what_is_no_origin_is_refused(text: str, tenant_a: Any, db: None) -> None:
    with pytest.raises(ImproperlyConfigured, match="must contain origins"):
        parse_origins([text])
    tenant_a = Tenant.objects.get(pk=tenant_a.pk)
    tenant_a.cors_origins = [text]
    with pytest.raises(ValidationError, match="scheme and a host name"):
        tenant_a.full_clean()


def test_origins(db: None, tenant_a: Any) -> None:
    valid = ["https://app.example.com", "http://localhost:5173", "*"]
    assert parse_origins(valid) == tuple(valid)
    tenant_a = Tenant.objects.get(pk=tenant_a.pk)
    tenant_a.cors_origins = valid
    tenant_a.full_clean()
