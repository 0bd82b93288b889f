"""`X-Request-ID` of every answer, by Django's middleware and by the ASGI and WSGI entry points.

The entry points set it for answers that do not pass Django's middleware too, and for the server's access log.
"""

from collections.abc import Callable, Iterable
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_only_middleware

from .infrastructure.request_context import RequestContext, current, request_id_from
from .security_headers import AsgiApp, Receive, Scope, Send, WsgiApp

HEADER = "X-Request-ID"
_NAME = HEADER.lower().encode()
_ENVIRON = "HTTP_X_REQUEST_ID"


@sync_only_middleware
def set_request_id(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], Any]:
    """Set the request's id and address for log lines and audit entries, and the id on the answer."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        request_id = request_id_from(request.META.get(_ENVIRON, ""))
        token = current.set(RequestContext(request_id, request.META.get("REMOTE_ADDR", "")))
        try:
            response = get_response(request)
        finally:
            current.reset(token)
        response.headers[HEADER] = request_id
        return response

    return answer


def asgi_with_request_id(application: AsgiApp) -> AsgiApp:
    """Return the application with one id for a request: in its scope, in its context and on its answer."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await application(scope, receive, send)
            return
        request_id = request_id_from(_given(scope).decode("latin-1"))
        # The server runs each request in a context of its own: there is nothing to reset.
        current.set(RequestContext(request_id))
        header = _NAME, request_id.encode()

        async def send_with_id(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*_others(message.get("headers", ())), header]}
            await send(message)

        await application({**scope, "headers": [*_others(scope["headers"]), header]}, receive, send_with_id)

    return answer


def wsgi_with_request_id(application: WsgiApp) -> WsgiApp:
    """Return the application with one id for a request: in its environment and on its answer."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request_id = environ[_ENVIRON] = request_id_from(environ.get(_ENVIRON, ""))

        def start(status: str, sent: list[tuple[str, str]], *rest: Any) -> Any:
            others = [(name, value) for name, value in sent if name.lower().encode() != _NAME]
            return start_response(status, [*others, (HEADER, request_id)], *rest)

        return application(environ, start)

    return answer


def _given(scope: Scope) -> bytes:
    return next((value for name, value in scope["headers"] if name == _NAME), b"")


def _others(headers: Iterable[Any]) -> list[Any]:
    return [(name, value) for name, value in headers if name.lower() != _NAME]
