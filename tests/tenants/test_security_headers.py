"""The security headers are on every answer: pages, API, static files, health, errors, refusals, malformed requests."""

import asyncio
import io
from typing import Any

import pytest
from django.core.exceptions import RequestDataTooBig
from django.core.handlers.asgi import ASGIRequest
from django.test import Client, override_settings
from django.test.client import AsyncClient

from config.asgi import application as asgi_application
from config.wsgi import application as wsgi_application
from tenants.security_headers import security_headers

REQUIRED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PAGES = [
    "/",
    "/admin/login/",
    "/t/alpha/admin/login/",
    "/t/absent/",
    "/absent/",
    "/api/docs/",
    "/t/alpha/api/docs/",
    "/api/docs/errors/",
]
OTHERS = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/static/gwanje/page.css",
    "/static/absent.css",
    "/api/v1/tenants/",
    "/t/alpha/api/v1/devices/",
    "/t/absent/api/v1/devices/",
    "/t/alpha/api/absent/",
    "/api/schema/",
    "/t/alpha/",
]


def policy_of(headers: Any) -> dict[str, str]:
    """The policy, by directive."""
    parts = headers["Content-Security-Policy"].split("; ")
    return {name: sources for name, _, sources in (part.partition(" ") for part in parts)}


def check(headers: Any) -> dict[str, str]:
    """Check the headers that every answer has; return the policy."""
    assert {name: headers.get(name) for name in REQUIRED} == REQUIRED
    assert "camera=()" in headers["Permissions-Policy"]
    policy = policy_of(headers)
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "'unsafe-inline'" not in policy.get("script-src", "") + policy.get("style-src", "")
    assert "http:" not in str(policy)
    assert "*" not in str(policy)
    return policy


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
def test_every_answer_has_the_headers(db: None, tenant_a: Any, path: str) -> None:
    for method in ("get", "post", "options"):
        policy = check(getattr(Client(), method)(path).headers)
        assert ("'unsafe-eval'" in policy.get("script-src", "")) == ("/admin/" in path)


def test_a_page_gets_the_policy_of_a_page_and_other_answers_allow_nothing(db: None, tenant_a: Any) -> None:
    assert policy_of(Client().get("/").headers)["script-src"] == "'self'"
    for path in ("/healthz", "/api/v1/tenants/", "/static/gwanje/page.css"):
        assert "script-src" not in policy_of(Client().get(path).headers)


def test_refusals_and_failures_have_the_headers(db: None, tenant_a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenants import views

    unknown_host = Client().get("/", headers={"Host": "evil.example.org"})
    assert unknown_host.status_code == 404
    check(unknown_host.headers)
    bad = Client().post("/", {"a": "b"}, headers={"Host": "evil.example.org/\\"})
    assert bad.status_code in (400, 404)
    check(bad.headers)
    monkeypatch.setattr(views.LandingPage, "get_context_data", lambda *_args, **_kwargs: 1 / 0)
    failed = Client(raise_request_exception=False).get("/")
    assert failed.status_code == 500
    check(failed.headers)


def test_an_answer_before_djangos_middleware_has_the_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    bodies = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if bodies:
            return bodies.pop()
        await asyncio.sleep(600)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    def unreadable(*_args: Any) -> Any:
        raise RequestDataTooBig

    monkeypatch.setattr(ASGIRequest, "__init__", unreadable)
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(_answer(asgi_application, scope, receive, send))
    assert sent[0]["status"] == 413
    names = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    assert REQUIRED.items() <= names.items()
    assert len(names) == len(sent[0]["headers"])


async def _answer(application: Any, *arguments: Any) -> None:
    await application(*arguments)


def test_headers_are_sent_once(db: None, tenant_a: Any) -> None:
    collected: list[Any] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/healthz",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http",
    }
    wsgi_application(environ, lambda status, headers: collected.extend(headers))
    names = [name.lower() for name, _value in collected]
    assert len(names) == len(set(names))
    assert set(REQUIRED) <= set(names)


def test_hsts_is_sent_behind_tls_on_every_answer() -> None:
    assert "Strict-Transport-Security" not in security_headers()
    with override_settings(SECURE_HSTS_SECONDS=31_536_000):
        assert security_headers()["Strict-Transport-Security"] == "max-age=31536000"


def test_the_asynchronous_handler_sets_them_too(db: None) -> None:
    response = asyncio.run(AsyncClient().get("/healthz"))
    check(response.headers)
