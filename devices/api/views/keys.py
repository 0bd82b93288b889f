"""API keys: administrators of the tenant, in person."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.serializers import keys as serializers
from devices.models import ApiKey
from devices.services import api_keys
from tenants.api.entity_tags import TaggedObject
from tenants.api.views.base import ObjectsView
from tenants.services.roles import Role

from .base import AuditedView


class ApiKeyViewSet(
    TaggedObject, mixins.RetrieveModelMixin, mixins.ListModelMixin, AuditedView, ObjectsView, viewsets.GenericViewSet
):
    """The tenant's API keys. What was issued is shown once; afterwards only its first characters are known."""

    role_to_read = role_to_write = Role.ADMIN
    open_to_keys = False
    secret_members = frozenset({"key"})
    http_method_names = ("get", "head", "post", "delete")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"
    queryset = ApiKey.objects.order_by("name", "id")
    serializer_class = serializers.ApiKeySerializer

    def edited_members(self) -> frozenset[str]:
        """Return what a person changes: everything but the last use."""
        return frozenset(serializers.ApiKeySerializer().fields) - {"last_used_at"}

    @extend_schema(request=serializers.NewApiKeySerializer, responses={201: serializers.IssuedApiKeySerializer})
    def create(self, request: Request) -> Response:
        """Issue a key. It is in this answer and never again."""
        wanted = serializers.NewApiKeySerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        key, text = api_keys.issue_api_key(**wanted.validated_data, acting_user=self.acting_user)
        return Response(self.get_serializer(key).data | {"key": text}, status.HTTP_201_CREATED)

    def destroy(self, request: Request, id: Any) -> Response:  # noqa: A002 (the name in the URL)
        """Revoke a key, from now on; it stays in the list."""
        api_keys.revoke_api_key(self.get_object(), acting_user=self.acting_user)
        return Response(status=status.HTTP_204_NO_CONTENT)
