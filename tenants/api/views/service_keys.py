"""Service keys: superusers issue and revoke them in person."""

from typing import Any

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.api.serializers import service_keys as serializers
from tenants.models import ServiceKey
from tenants.services import service_keys

from .staff import StaffView


class ServiceKeyViewSet(mixins.ListModelMixin, StaffView, viewsets.GenericViewSet):
    """Keys with which programs of the staff use this API."""

    how_to_authenticate = _("Send the username and password of a superuser (HTTP Basic), or log in.")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"
    queryset = ServiceKey.objects.select_related("issued_by").order_by("name", "id")
    serializer_class = serializers.ServiceKeySerializer

    @extend_schema(request=serializers.NewServiceKeySerializer, responses={201: serializers.IssuedServiceKeySerializer})
    def create(self, request: Request) -> Response:
        """Issue a key. It is in this answer and never again; it ends with the rights of the superuser."""
        wanted = serializers.NewServiceKeySerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        key, text = service_keys.issue_service_key(**wanted.validated_data, acting_user=self.staff_user)
        return Response(self.get_serializer(key).data | {"key": text}, status.HTTP_201_CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, id: Any) -> Response:  # noqa: A002 (the name in the URL)
        """Revoke a key, from now on; it stays in the list."""
        service_keys.revoke_service_key(self.get_object(), acting_user=self.staff_user)
        return Response(status=status.HTTP_204_NO_CONTENT)
