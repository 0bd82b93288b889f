"""Which tenant a request is for: by host name, or under `/t/{slug}/`."""

import re

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound
from django.shortcuts import render
from django.urls import set_script_prefix
from django_tenants.middleware.main import TenantMainMiddleware
from django_tenants.utils import get_public_schema_name, get_tenant_domain_model

from .models import SLUG_PATTERN, Tenant

_PREFIX = re.compile(r"^/t/(?P<slug>[^/]+)(?P<rest>/.*)?$")
_SLUG = re.compile(SLUG_PATTERN)


class TenantMiddleware(TenantMainMiddleware):
    """Sets the request's tenant, its schema and its URLs, and nothing of the request before it stays.

    `/t/demo/api/v1/` becomes script name `/t/demo` and path `/api/v1/`, so that one set of URLs serves both
    ways in, and every link that is built carries the prefix.
    """

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        connection.set_schema_to_public()
        # The handler restores it, the test client does not: a stale prefix would make links of another tenant.
        set_script_prefix(request.META.get("SCRIPT_NAME") or "/")
        try:
            hostname = self.hostname_from_request(request).lower()
        except DisallowedHost:
            return HttpResponseNotFound("No such host.", content_type="text/plain")
        tenant, rest = self._by_prefix(request), None
        if tenant is None and (match := _PREFIX.match(request.path_info)):
            return self._refuse(request, 404, match["slug"])
        if tenant is not None:
            rest = (_PREFIX.match(request.path_info) or {})["rest"] or "/"
        else:
            tenant = self._by_host(hostname)
        if tenant is None:
            return self._public(request)
        if tenant.state != Tenant.State.ACTIVE:
            return self._refuse(request, 404 if tenant.state == Tenant.State.FAILED else 503, tenant.slug)
        if rest is not None:
            self._move_prefix(request, f"/t/{tenant.slug}", rest)
        return self._enter(request, tenant)

    def _by_prefix(self, request: HttpRequest) -> Tenant | None:
        match = _PREFIX.match(request.path_info)
        if match is None or not _SLUG.match(match["slug"]):
            return None
        return Tenant.objects.exclude(schema_name=get_public_schema_name()).filter(slug=match["slug"]).first()

    def _by_host(self, hostname: str) -> Tenant | None:
        domain = get_tenant_domain_model().objects.select_related("tenant").filter(domain=hostname).first()
        if domain is None or domain.tenant.schema_name == get_public_schema_name():
            return None
        return domain.tenant

    def _move_prefix(self, request: HttpRequest, prefix: str, rest: str) -> None:
        script_name = request.META.get("SCRIPT_NAME", "").rstrip("/") + prefix
        request.META["SCRIPT_NAME"] = script_name
        request.META["PATH_INFO"] = rest
        request.path_info = rest
        request.path = script_name + rest
        set_script_prefix(script_name + "/")

    def _enter(self, request: HttpRequest, tenant: Tenant) -> None:
        tenant.domain_url = request.get_host()
        request.tenant = tenant
        connection.set_tenant(tenant)
        request.urlconf = settings.ROOT_URLCONF

    def _public(self, request: HttpRequest) -> None:
        request.tenant = None
        request.urlconf = settings.PUBLIC_SCHEMA_URLCONF

    def _refuse(self, request: HttpRequest, status: int, slug: str) -> HttpResponse:
        request.tenant = None
        request.urlconf = settings.PUBLIC_SCHEMA_URLCONF
        return render(request, "tenants/unavailable.html", {"slug": slug, "status": status}, status=status)
