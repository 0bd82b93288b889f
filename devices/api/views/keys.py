"""API keys: administrators of the tenant, and keys with the scopes `keys:read` and `keys:write`."""

from datetime import timedelta
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.object_changes import MirroredObjects
from devices.api.serializers import keys as serializers
from devices.models import ApiKey
from devices.services import api_keys
from tenants.api.entity_tags import TaggedObject
from tenants.api.errors import Conflict, ErrorSerializer
from tenants.api.views.base import ObjectsView
from tenants.infrastructure.error_codes import ErrorCode
from tenants.services.roles import Role

from .base import AuditedView


class ApiKeyViewSet(
    MirroredObjects,
    TaggedObject,
    mixins.RetrieveModelMixin,
    mixins.ListModelMixin,
    AuditedView,
    ObjectsView,
    viewsets.GenericViewSet,
):
    """The tenant's API keys. What was issued is shown once; afterwards only its first characters are known."""

    kind = "api-keys"
    orderings: ClassVar = {name: name for name in ("name", "created_at", "expires_at", "last_used_at")}
    resource = "keys"
    role_to_read = role_to_write = Role.ADMIN
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
        """Issue a key. It is in this answer and never again.

        A key with the scope `keys:write` can issue keys with scopes that it has itself, until its own end.
        """
        wanted = serializers.NewApiKeySerializer(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        return self._issued(*api_keys.issue_api_key(**wanted.validated_data, acting_user=self.acting_user))

    @extend_schema(
        request=serializers.KeyRotationSerializer,
        responses={201: serializers.IssuedApiKeySerializer, 409: ErrorSerializer},
    )
    @action(detail=True, methods=["post"], pagination_class=None)
    def rotate(self, request: Request, id: Any) -> Response:  # noqa: A002 (the name in the URL)
        """Issue a key's successor with the same rights; the key itself stays valid for a while."""
        wanted = serializers.KeyRotationSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        key, overlap = self._manageable(), timedelta(seconds=wanted.validated_data["overlap_seconds"])
        try:
            return self._issued(*api_keys.rotate_api_key(key, overlap=overlap, acting_user=self.acting_user))
        except ValidationError as error:
            raise Conflict(" ".join(error.messages), ErrorCode.WRONG_STATE) from error

    def destroy(self, request: Request, id: Any) -> Response:  # noqa: A002 (the name in the URL)
        """Revoke a key, from now on; it stays in the list."""
        api_keys.revoke_api_key(self._manageable(), acting_user=self.acting_user)
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _manageable(self) -> ApiKey:
        """Return the key of the request. Raises PermissionDenied for one with more rights than the client's own key."""
        key, own = self.get_object(), self.request.auth
        if isinstance(own, ApiKey) and not key.granted <= own.granted:
            raise PermissionDenied(_("This key has scopes that your own key does not have."))
        return key

    def _issued(self, key: ApiKey, text: str) -> Response:
        return Response(self.get_serializer(key).data | {"key": text}, status.HTTP_201_CREATED)
