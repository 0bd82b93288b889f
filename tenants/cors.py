"""Cross-origin requests to a tenant's API, from the origins of the setting and of the tenant.

No answer allows credentials: a page of another origin sends an API key, and never a person's cookies.
"""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.decorators import sync_only_middleware

_METHODS = "GET, HEAD, POST, PATCH, DELETE"
_REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, X-Request-ID"
_ANSWER_HEADERS = (
    "Content-Disposition, ETag, Gwanje-Warnings, Idempotent-Replayed, RateLimit, RateLimit-Policy, Retry-After,"
    " X-Request-ID"
)
# Seconds for which a browser remembers the answer to a preflight request.
_MAX_AGE = "600"


@sync_only_middleware
def allow_origins(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Set the headers of CORS on answers of a tenant's API, and answer its preflight requests."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        origin = request.META.get("HTTP_ORIGIN", "")
        if not origin or not request.path_info.startswith("/api/"):
            return get_response(request)
        allowed = _allowed(request, origin)
        if allowed and request.method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in request.META:
            response = _preflight()
        else:
            response = get_response(request)
        patch_vary_headers(response, ("Origin",))
        if allowed:
            response.headers["Access-Control-Allow-Origin"] = allowed
            response.headers["Access-Control-Expose-Headers"] = _ANSWER_HEADERS
        return response

    return answer


def _allowed(request: Any, origin: str) -> str:
    """Return the value of Access-Control-Allow-Origin; empty for an origin that is not allowed."""
    if request.tenant is None:
        return ""
    origins = {*settings.CORS_ORIGINS, *request.tenant.cors_origins}
    return origin if origin in origins else "*" if "*" in origins else ""


def _preflight() -> HttpResponse:
    return HttpResponse(
        status=204,
        headers={
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _REQUEST_HEADERS,
            "Access-Control-Max-Age": _MAX_AGE,
        },
    )
