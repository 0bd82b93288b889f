"""What there is below `api/v1/`."""

from typing import ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from .base import TenantView


class EndpointsView(TenantView):
    """The addresses of the lists. `endpoints` names them: what stands in the address → the URL's name."""

    endpoints: ClassVar[dict[str, str]] = {}

    @extend_schema(operation_id="endpoints", responses={200: OpenApiTypes.OBJECT})
    def get(self, request: Request) -> Response:
        """The addresses of the lists."""
        return Response({shown: reverse(name, request=request) for shown, name in self.endpoints.items()})
