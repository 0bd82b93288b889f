"""Which tenant a request is for: a table of hosts and paths, and that nothing stays of the request before."""

from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory
from django.urls import get_script_prefix, reverse

from tenants.infrastructure.database import current_schema, leave_schema
from tenants.middleware import TenantMiddleware
from tenants.models import Domain, Tenant


@pytest.fixture
def enter_request(db: None, tenant_a: Any, tenant_b: Any) -> Any:
    Domain.objects.create(domain="alpha.localhost", tenant=tenant_a, is_primary=True)
    middleware = TenantMiddleware(lambda request: None)

    def enter(path: str, host: str = "localhost", **headers: str) -> tuple[HttpRequest, Any]:
        request = RequestFactory(headers={"host": host, **headers}).get(path)
        return request, middleware.process_request(request)

    yield enter
    leave_schema()


@pytest.mark.parametrize(
    ("host", "path", "slug", "path_info"),
    [
        ("localhost", "/", None, "/"),
        ("localhost:8000", "/admin/", None, "/admin/"),
        ("localhost", "/t/alpha/", "alpha", "/"),
        ("localhost", "/t/alpha", "alpha", "/"),
        ("localhost", "/t/beta-farm/api/v1/devices/", "beta-farm", "/api/v1/devices/"),
        ("alpha.localhost", "/admin/", "alpha", "/admin/"),
        ("ALPHA.localhost:8000", "/admin/", "alpha", "/admin/"),
        ("alpha.localhost", "/t/beta-farm/admin/", "beta-farm", "/admin/"),
        ("unknown.localhost", "/", None, "/"),
    ],
)
def test_host_or_prefix(enter_request: Any, host: str, path: str, slug: str | None, path_info: str) -> None:
    request, refusal = enter_request(path, host)
    assert refusal is None
    assert (request.tenant.slug if request.tenant else None) == slug
    assert request.path_info == path_info
    expected = Tenant.objects.get(slug=slug).schema_name if slug else "public"
    assert current_schema() == expected


@pytest.mark.parametrize("slug", ["unknown", "public", "ALPHA", "alpha%22,public", "..", "t_alpha", "a" * 60])
def test_a_tenant_that_does_not_exist(enter_request: Any, slug: str) -> None:
    _, refusal = enter_request(f"/t/{slug}/admin/")
    assert refusal.status_code == 404
    assert current_schema() == "public"


@pytest.mark.parametrize(("state", "status"), [("suspended", 503), ("creating", 503), ("failed", 404)])
def test_a_tenant_that_is_not_open(enter_request: Any, tenant_a: Any, state: str, status: int) -> None:
    Tenant.objects.filter(pk=tenant_a.pk).update(state=state)
    for path, host in (("/t/alpha/admin/", "localhost"), ("/admin/", "alpha.localhost")):
        _, refusal = enter_request(path, host)
        assert refusal.status_code == status
        assert current_schema() == "public"


def test_links_carry_the_prefix_and_the_next_request_does_not(enter_request: Any) -> None:
    enter_request("/t/alpha/admin/")
    assert get_script_prefix() == "/t/alpha/"
    assert reverse("admin:index", urlconf="config.urls") == "/t/alpha/admin/"
    enter_request("/admin/")
    assert get_script_prefix() == "/"
    assert reverse("admin:index", urlconf="config.urls_public") == "/admin/"


def test_a_forwarded_host_is_not_believed(enter_request: Any) -> None:
    request, _ = enter_request("/admin/", "localhost", **{"X-Forwarded-Host": "alpha.localhost"})
    assert request.tenant is None


def test_a_host_that_is_not_allowed(enter_request: Any) -> None:
    _, refusal = enter_request("/", "evil.example.org")
    assert refusal.status_code == 404


def test_in_the_mode_of_host_names_no_path_leads_to_a_tenant(enter_request: Any, settings: Any) -> None:
    settings.TENANT_PATHS = False
    for path in ("/t/alpha/admin/", "/t/unknown/admin/"):
        request, refusal = enter_request(path)
        assert (request.tenant, refusal, request.path_info) == (None, None, path)
    request, _ = enter_request("/t/beta-farm/admin/", "alpha.localhost")
    assert (request.tenant.slug, request.path_info) == ("alpha", "/t/beta-farm/admin/")
