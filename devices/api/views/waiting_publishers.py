"""Publishers that wait at a gateway: announced by it, registered with one request."""

from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api import filters
from devices.api.serializers import waiting_publishers as serializers
from devices.api.serializers.inventory import DeviceSerializer
from devices.models import WaitingPublisher
from devices.services.provisioning import waiting_publishers
from tenants.api.entity_tags import TaggedObject
from tenants.api.errors import ErrorSerializer
from tenants.api.views.base import ObjectsView
from tenants.services.roles import Role

from .base import AuditedView


class AnnouncementView(AuditedView):
    """Announcements of gateways."""

    resource = "gateways"
    role_to_read = role_to_write = Role.OPERATOR

    @extend_schema(request=serializers.AnnouncementSerializer, responses={200: serializers.AnnouncedSerializer})
    def post(self, request: Request, uuid: Any) -> Response:
        """Announce publishers that the gateway has seen and that are not its children. They wait to be registered."""
        wanted = serializers.AnnouncementSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        gateway = filters.device_by_uuid(request, uuid)
        return Response({"waiting": waiting_publishers.announce(gateway, wanted.validated_data["publishers"])})


class WaitingPublisherViewSet(
    mixins.RetrieveModelMixin, mixins.ListModelMixin, TaggedObject, AuditedView, ObjectsView, viewsets.GenericViewSet
):
    """Publishers that wait at the gateways."""

    resource = "devices"
    role_to_write = Role.OPERATOR
    http_method_names = ("get", "head", "post", "delete")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"
    queryset = WaitingPublisher.objects.select_related("gateway")
    serializer_class = serializers.WaitingPublisherSerializer
    filterset_class = filters.WaitingPublisherFilter

    @extend_schema(
        request=serializers.NewChildSerializer,
        responses={201: DeviceSerializer, 409: ErrorSerializer, 503: ErrorSerializer},
    )
    @action(detail=True, methods=["post"], filterset_class=None, pagination_class=None)
    def register(self, request: Request, id: Any) -> Response:  # noqa: A002 (the name in the address)
        """Register the publisher as a device, with its gateway and the proposed component type."""
        wanted = serializers.NewChildSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        device = waiting_publishers.register(
            self.get_object(), name=wanted.validated_data.get("name", ""), acting_user=self.acting_user
        )
        if device is None:
            raise NotFound(_("The publisher does not wait any more."))
        shown = filters.device_by_uuid(request, device.uuid)
        return Response(DeviceSerializer(shown).data, status.HTTP_201_CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, id: Any) -> Response:  # noqa: A002
        """Remove the publisher; it waits again when its gateway announces it again."""
        waiting_publishers.remove(self.get_object(), acting_user=self.acting_user)
        return Response(status=status.HTTP_204_NO_CONTENT)
