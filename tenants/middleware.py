"""The middleware that sets a request's client address, its tenant (by host name or `/t/{slug}/`), and connections."""

import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from inspect import iscoroutinefunction
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, MiddlewareNotUsed
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import set_script_prefix
from django.utils import translation
from django.utils.decorators import sync_and_async_middleware, sync_only_middleware
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django_tenants.middleware.main import TenantMainMiddleware

from .api.problems import is_for_api, problem_response
from .api.views.health import healthz, metrics, readyz
from .infrastructure.client_address import client_address, comes_from_proxy
from .infrastructure.connection_shares import ConnectionShares
from .infrastructure.database import current_schema, enter_schema_of, leave_schema
from .infrastructure.error_codes import ErrorCode
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
_REFUSALS = {
    ErrorCode.UNKNOWN_TENANT: _("There is no tenant %(slug)r here."),
    ErrorCode.TENANT_UNAVAILABLE: _("The tenant %(slug)r is unavailable at the moment."),
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
    with _language_of(request):
        text = gettext("Too many requests of this tenant are in progress. Try again in a few seconds.")
        return _text_answer(request, ErrorCode.BUSY, text, _RETRY_SECONDS)


def _text_answer(request: HttpRequest, code: ErrorCode, text: str, retry_seconds: int | None = None) -> HttpResponse:
    if is_for_api(request.path_info):
        return problem_response(code, text, retry_seconds=retry_seconds)
    headers = {} if retry_seconds is None else {"Retry-After": str(retry_seconds)}
    return HttpResponse(text, status=code.status, content_type="text/plain; charset=utf-8", headers=headers)


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
            with _language_of(request):
                return _text_answer(request, ErrorCode.UNKNOWN_HOST, gettext("This host name is not served here."))
        match = _PREFIX.match(request.path_info) if settings.TENANT_PATHS else None
        tenant = self._by_slug(match["slug"]) if match else self._by_host(hostname)
        if tenant is None:
            return self._refuse(request, ErrorCode.UNKNOWN_TENANT, match["slug"]) if match else None
        if tenant.state != Tenant.State.ACTIVE:
            is_failed = tenant.state == Tenant.State.FAILED
            code = ErrorCode.UNKNOWN_TENANT if is_failed else ErrorCode.TENANT_UNAVAILABLE
            return self._refuse(request, code, tenant.slug)
        if match:
            self._move_prefix(request, f"/t/{tenant.slug}", match["rest"] or "/")
        self._enter(request, tenant)
        return None

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer 503 where a password could not be hashed in time; other errors are for Django."""
        if not isinstance(exception, HashingBusy):
            return None
        text = gettext("Too many passwords are being checked. Try again.")
        return _text_answer(request, ErrorCode.BUSY, text, exception.wait)

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

    def _refuse(self, request: HttpRequest, code: ErrorCode, slug: str) -> HttpResponse:
        with _language_of(request):
            if is_for_api(request.path_info):
                return problem_response(code, _REFUSALS[code] % {"slug": slug})
            context = {"slug": slug, "status": code.status}
            return render(request, "tenants/unavailable.html", context, status=code.status)


def _language_of(request: HttpRequest) -> AbstractContextManager[None]:
    """Return a context in the client's language: Django's middleware for languages comes later."""
    return translation.override(translation.get_language_from_request(request))
