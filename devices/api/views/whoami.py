"""The client of a request."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.serializers.whoami import WhoAmISerializer
from devices.api.visibility import selector_of
from devices.models import ApiKey
from tenants.api.permissions import ANY_KEY
from tenants.api.views.base import DeviceScope, TenantView
from tenants.services.roles import request_access


class WhoAmIView(TenantView):
    """The client and its rights."""

    resource = ANY_KEY
    device_scope = DeviceScope.SHARED

    @extend_schema(operation_id="whoami", responses=WhoAmISerializer)
    def get(self, request: Request) -> Response:
        """Return the API key or the person that sent the request, with its rights."""
        key = request.auth
        client = _key(key) if isinstance(key, ApiKey) else _person(request)
        slug = request._request.tenant.slug  # type: ignore[attr-defined]
        found = {"tenant": slug, "selector": selector_of(request).stored()} | client
        return Response(WhoAmISerializer(found).data)


def _key(key: ApiKey) -> dict[str, Any]:
    return {
        "kind": "key",
        "name": key.name,
        "prefix": key.prefix,
        "role": None,
        "scopes": sorted(key.granted),
        "expires_at": key.expires_at,
    }


def _person(request: Request) -> dict[str, Any]:
    return {
        "kind": "person",
        "name": request.user.get_username(),
        "prefix": None,
        "role": request_access(request).role,
        "scopes": None,
        "expires_at": None,
    }
