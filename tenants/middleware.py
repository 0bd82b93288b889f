"""The middleware that sets a request's client address, its tenant (by host name or `/t/{slug}/`), and connections."""

import re
import time
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, MiddlewareNotUsed
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import set_script_prefix
from django.utils import translation
from django.utils.decorators import sync_and_async_middleware, sync_only_middleware
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django_tenants.middleware.main import TenantMainMiddleware

from .api.errors import body, is_for_api
from .api.views.health import healthz, metrics, readyz
from .infrastructure.client_address import client_address, comes_from_proxy
from .infrastructure.connection_shares import ConnectionShares
from .infrastructure.database import current_schema, enter_schema_of, leave_schema
from .infrastructure.password_hashing import HashingBusy
from .models import SLUG_PATTERN, Tenant
from .services import tenant_lookup

_PREFIX = re.compile(r"^/t/(?P<slug>[^/]+)(?P<rest>/.*)?$")
_SLUG = re.compile(SLUG_PATTERN)
# Handled here, because monitoring uses any host name, also while the database is unavailable.
_PROBES = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}
# Seconds until a request is repeated that found no slot.
_RETRY_SECONDS = 3
# Pages of more results are processed one at a time for each tenant in each process.
_LARGE_PAGE = 200
_CODES = {404: "not_found", 503: "unavailable"}
_REFUSALS = {
    404: _("There is no tenant %(slug)r here."),
    503: _("The tenant %(slug)r is unavailable at the moment."),
}


@sync_and_async_middleware
def trust_proxies(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Set the client's address as the proxies in `TRUSTED_PROXIES` report it; without proxies nothing is to be set.

    `X-Forwarded-Proto` of any other peer is removed: it is not the client that says whether there is TLS.
    """
    if not settings.TRUSTED_PROXIES:
        raise MiddlewareNotUsed

    def set_address(request: HttpRequest) -> None:
        peer = request.META.get("REMOTE_ADDR", "")
        forwarded_for = request.META.get("HTTP_X_FORWARDED_FOR", "")
        if not comes_from_proxy(peer, settings.TRUSTED_PROXIES):
            request.META.pop("HTTP_X_FORWARDED_PROTO", None)
        request.META["REMOTE_ADDR"] = client_address(peer, forwarded_for, settings.TRUSTED_PROXIES)

    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> Any:
            set_address(request)
            return await get_response(request)

        return answer_async

    def answer(request: HttpRequest) -> Any:
        set_address(request)
        return get_response(request)

    return answer


@sync_only_middleware
def share_connections(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Bound the pooled connections that the requests of one tenant, or of the public site, use at a time.

    Requests beyond the share wait without a connection, then receive 503 with Retry-After. Large pages of a tenant are
    processed one at a time. A tenant whose requests wait for locks in vain has one slot for a while. Without a pool
    nothing is shared.
    """
    if "pool" not in connection.settings_dict["OPTIONS"]:
        raise MiddlewareNotUsed
    shares = ConnectionShares(int(settings.DATABASE_POOL_SIZE * settings.DATABASE_TENANT_SHARE))

    def answer(request: HttpRequest) -> Any:
        schema, began = current_schema(), time.monotonic()
        with shares.slot(schema, connection.close, is_large=_is_large(request)) as has_slot:
            if not has_slot:
                return _over_share(request)
            response = get_response(request)
        if response.status_code == 503 and time.monotonic() - began >= settings.DATABASE_LOCK_SECONDS:
            shares.strain(schema)
        return response

    return answer


def _is_large(request: HttpRequest) -> bool:
    """Return whether the request is for a page that takes as long as many others."""
    limit = request.GET.get("limit", "")
    return limit.isascii() and limit.isdigit() and len(limit) < 10 and int(limit) > _LARGE_PAGE


def _over_share(request: HttpRequest) -> HttpResponse:
    with translation.override(translation.get_language_from_request(request)):
        text = gettext("Too many requests of this tenant are in progress. Try again in a few seconds.")
    answer = _text_answer(request, 503, text)
    answer["Retry-After"] = str(_RETRY_SECONDS)
    return answer


def _text_answer(request: HttpRequest, status: int, text: Any) -> HttpResponse:
    if is_for_api(request):
        return JsonResponse(body(status, _CODES[status], text), status=status)
    return HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")


class TenantMiddleware(TenantMainMiddleware):
    """Sets the request's tenant, schema and URLs, and removes those of the request before.

    `/t/demo/api/v1/` becomes script name `/t/demo` and path `/api/v1/`, so that one set of URLs serves both
    kinds of address, and every link contains the prefix.
    """

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        """Set tenant, schema and URLs of the request; return a response where there is none or it is unavailable."""
        leave_schema()
        # Django's handler restores it, its test client does not: a stale prefix would make links to another tenant.
        set_script_prefix(request.META.get("SCRIPT_NAME") or "/")
        self._stay_public(request)
        if request.path_info in _PROBES:
            return _PROBES[request.path_info](request)
        try:
            hostname = self.hostname_from_request(request).lower()
        except DisallowedHost:
            return self._answer(request, 404, "This host name is not served here.")
        match = _PREFIX.match(request.path_info) if settings.TENANT_PATHS else None
        tenant = self._by_slug(match["slug"]) if match else self._by_host(hostname)
        if tenant is None:
            return self._refuse(request, 404, match["slug"]) if match else None
        if tenant.state != Tenant.State.ACTIVE:
            return self._refuse(request, 404 if tenant.state == Tenant.State.FAILED else 503, tenant.slug)
        if match:
            self._move_prefix(request, f"/t/{tenant.slug}", match["rest"] or "/")
        self._enter(request, tenant)
        return None

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer 503 where a password could not be hashed in time; other errors are for Django."""
        if not isinstance(exception, HashingBusy):
            return None
        answer = self._answer(request, exception.status, gettext("Too many passwords are being checked. Try again."))
        answer["Retry-After"] = str(exception.wait)
        return answer

    def _by_slug(self, slug: str) -> Tenant | None:
        return tenant_lookup.by_slug(slug) if _SLUG.match(slug) else None

    def _by_host(self, hostname: str) -> Tenant | None:
        return tenant_lookup.by_host(hostname)

    def _move_prefix(self, request: HttpRequest, prefix: str, rest: str) -> None:
        script_name = request.META.get("SCRIPT_NAME", "").rstrip("/") + prefix
        request.META["SCRIPT_NAME"] = script_name
        request.META["PATH_INFO"] = rest
        request.path_info = rest
        request.path = script_name + rest
        set_script_prefix(script_name + "/")

    def _enter(self, request: Any, tenant: Tenant) -> None:
        request.tenant = tenant
        enter_schema_of(tenant)
        request.urlconf = settings.ROOT_URLCONF

    def _stay_public(self, request: Any) -> None:
        request.tenant = None
        request.urlconf = settings.PUBLIC_SCHEMA_URLCONF

    def _refuse(self, request: HttpRequest, status: int, slug: str) -> HttpResponse:
        # Django's middleware for languages comes later, and does not process this response.
        with translation.override(translation.get_language_from_request(request)):
            if is_for_api(request):
                return self._answer(request, status, _REFUSALS[status] % {"slug": slug})
            return render(request, "tenants/unavailable.html", {"slug": slug, "status": status}, status=status)

    def _answer(self, request: HttpRequest, status: int, text: str) -> HttpResponse:
        return _text_answer(request, status, text)
