"""The OpenAPI document and its pages. They contain no data, so they are public."""

from functools import cache
from typing import Any

from django.conf import settings
from django.urls import get_script_prefix
from django.utils import translation
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response


class SchemaView(SpectacularAPIView):
    """The OpenAPI document of the addresses that the request came in by."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    throttle_classes = ()
    renderer_classes = [OpenApiJsonRenderer, OpenApiYamlRenderer]  # noqa: RUF012 (a list is what the base class has)

    def _get_schema_response(self, request: Request) -> Response:
        urlconf = getattr(request, "urlconf", None) or settings.ROOT_URLCONF
        server = {"url": get_script_prefix().rstrip("/") or "/"}
        return Response(document_of_addresses(urlconf) | {"servers": [server]})


class DocsView(SpectacularSwaggerSplitView):
    """The document as a page to read and try, with nothing from other hosts."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    throttle_classes = ()
    url_name = "api-schema"
    template_name = "tenants/api_docs.html"


@cache
def document_of_addresses(urlconf: str) -> dict[str, Any]:
    """Return the document, which is the same for all clients and takes a second to generate.

    In English: of its texts only the labels of models are translated, and half a document would be.
    """
    with translation.override("en"):
        return SchemaGenerator(urlconf=urlconf).get_schema(request=None, public=True)
