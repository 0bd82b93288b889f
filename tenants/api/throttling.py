"""How many requests a tenant may make in a minute."""

from typing import TYPE_CHECKING

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from tenants.infrastructure import window_counts
from tenants.infrastructure.schema_context import current_schema

if TYPE_CHECKING:
    # REST framework loads this module from its settings, before its views are there.
    from rest_framework.views import APIView

_WINDOW_SECONDS = 60


class TenantThrottle(BaseThrottle):
    """One count for everybody in a tenant, so that no tenant slows down the others; requests refused before
    this (401, 403) do not count, or anybody could use up a tenant's share."""

    def allow_request(self, request: Request, view: "APIView") -> bool:
        """Return whether the request is within the limit."""
        limit = settings.API_REQUESTS_PER_MINUTE
        if not limit:
            return True
        counted, self._wait = window_counts.count(f"api:{current_schema()}", seconds=_WINDOW_SECONDS)
        return counted <= limit

    def wait(self) -> float:
        """Return the seconds until the next request is allowed."""
        return float(self._wait)
