"""The security headers of every answer, by Django's outermost middleware and by the ASGI and WSGI entry points.

No page has an inline script or an inline `<style>`, so that the policy needs no nonces.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import iscoroutinefunction
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Any], Awaitable[None]]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(),"
    " magnetometer=(), microphone=(), midi=(), payment=(), usb=()",
}
_PAGE: dict[str, str] = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
# Alpine.js, with which unfold's pages are built, compiles the expressions in attributes, and sets style attributes.
_ADMIN = _PAGE | {"script-src": "'self' 'unsafe-eval'", "style-src-attr": "'unsafe-inline'"}
# Swagger UI sets style attributes.
_DOCS = _PAGE | {"style-src-attr": "'unsafe-inline'"}
_NO_PAGE = {"default-src": "'none'", "base-uri": "'none'", "frame-ancestors": "'none'"}


def security_headers() -> dict[str, str]:
    """Return the headers of an answer that is not a page."""
    headers = _HEADERS | {"Content-Security-Policy": _policy(_NO_PAGE)}
    if settings.SECURE_HSTS_SECONDS:
        headers["Strict-Transport-Security"] = f"max-age={settings.SECURE_HSTS_SECONDS}"
    return headers


@sync_and_async_middleware
def set_security_headers(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Set the headers on every answer of Django, also on those of other middleware."""
    headers = security_headers()

    def with_headers(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.get("Content-Type", "").startswith("text/html"):
            # The path below the tenant's prefix, which the tenant's middleware has removed.
            response["Content-Security-Policy"] = _policy_of(request.path_info)
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        return response

    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> HttpResponseBase:
            return with_headers(request, await get_response(request))

        return answer_async

    def answer(request: HttpRequest) -> HttpResponseBase:
        return with_headers(request, get_response(request))

    return answer


def asgi_with_headers(application: AsgiApp) -> AsgiApp:
    """Return the application with the headers on answers that do not pass Django's middleware: malformed requests."""
    headers = security_headers()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _value in message.get("headers", ())}
                message = {**message, "headers": [*message.get("headers", ()), *_missing(headers, present)]}
            await send(message)

        await application(scope, receive, send_with_headers if scope["type"] == "http" else send)

    return answer


def wsgi_with_headers(application: WsgiApp) -> WsgiApp:
    """Return the application with the headers on answers that do not pass Django's middleware."""
    headers = security_headers()

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, sent: list[tuple[str, str]], *rest: Any) -> Any:
            present = {name.lower().encode() for name, _value in sent}
            added = [(name.decode(), value.decode()) for name, value in _missing(headers, present)]
            return start_response(status, [*sent, *added], *rest)

        return application(environ, start)

    return answer


def _missing(headers: Mapping[str, str], present: set[bytes]) -> list[tuple[bytes, bytes]]:
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return [(name, value) for name, value in encoded if name not in present]


def _policy_of(path: str) -> str:
    if path.startswith("/admin/"):
        return _ADMIN_POLICY
    return _DOCS_POLICY if path.startswith("/api/docs/") else _PAGE_POLICY


def _policy(directives: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in directives.items())


_PAGE_POLICY, _ADMIN_POLICY, _DOCS_POLICY = _policy(_PAGE), _policy(_ADMIN), _policy(_DOCS)
