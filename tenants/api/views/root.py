"""The API's root: the addresses that can be read without naming an object."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from django.urls import URLPattern
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from tenants.api.permissions import ANY_KEY

from .base import DeviceScope, TenantView


class EndpointsView(TenantView):
    """The addresses of the lists, taken from the URL patterns."""

    resource = ANY_KEY
    device_scope = DeviceScope.SHARED
    patterns: ClassVar[Sequence[URLPattern]] = ()

    @extend_schema(operation_id="endpoints", responses={200: OpenApiTypes.OBJECT})
    def get(self, request: Request) -> Response:
        """Return the addresses of the lists, by their paths below api/v1/."""
        return Response({name: reverse(view, request=request) for name, view in readable(self.patterns)})


def readable(patterns: Iterable[URLPattern]) -> list[tuple[str, str]]:
    """Return (path without the last slash, name of the URL) of all patterns that have no variable and answer GET."""
    found = [(str(pattern.pattern).strip("/"), pattern) for pattern in patterns]
    return sorted(
        (address, str(pattern.name))
        for address, pattern in found
        if not pattern.pattern.converters and _answers_get(pattern)
    )


def _answers_get(pattern: URLPattern) -> bool:
    actions = getattr(pattern.callback, "actions", None)
    return "get" in actions if actions else hasattr(getattr(pattern.callback, "cls", None), "get")
