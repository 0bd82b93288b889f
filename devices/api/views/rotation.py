"""Key rotations: administrators, and keys that may write."""

from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.serializers import rotation as serializers
from devices.api.visibility import selector_of
from devices.models import RotationCampaign, RotationMember
from devices.services.rotation import campaigns, tokens
from devices.services.rotation.selection import DeviceSelection
from devices.services.visibility import selected_devices
from tenants.api.errors import ErrorSerializer
from tenants.api.serializers.base import refuse_body
from tenants.api.views.base import DeviceScope, ObjectsView

from .base import AuditedView

_SHOWN = {200: serializers.RotationCampaignSerializer, 400: ErrorSerializer}


class RotationViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, AuditedView, ObjectsView, viewsets.GenericViewSet
):
    """New keys for many devices, with overlap."""

    resource = "credentials"
    device_scope = DeviceScope.SHARED
    http_method_names = ("get", "head", "post")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"
    queryset = RotationCampaign.objects.order_by("-id")
    serializer_class = serializers.RotationCampaignSerializer

    def get_queryset(self) -> QuerySet[RotationCampaign]:
        """Return the rotations; to a client with a device selector those of its devices alone."""
        rows, selector = super().get_queryset(), selector_of(self.request)
        if not selector:
            return rows
        members = RotationMember.objects.filter(campaign=OuterRef("pk"))
        others = members.exclude(device__in=selected_devices(selector).order_by().values("pk"))
        return rows.filter(Exists(members), ~Exists(others))

    def get_serializer_class(self) -> Any:
        """Return the serializer of the action."""
        # The counts of one are a query; a list is shown without.
        return serializers.RotationSummarySerializer if self.action == "list" else self.serializer_class

    @extend_schema(
        request=serializers.NewRotationSerializer,
        responses={201: serializers.RotationCampaignSerializer, 400: ErrorSerializer},
    )
    def create(self, request: Request) -> Response:
        """Start a rotation over the devices that are selected now."""
        wanted = serializers.NewRotationSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        selection = DeviceSelection(
            marked=given.pop("marked"),
            hardware_model=given.pop("hardware_model", None),
            search=given.pop("search"),
            uuids=given.pop("devices"),
        )
        campaign = campaigns.start(**given, selection=selection, acting_user=self.acting_user)
        return Response(self.get_serializer(campaign).data, status.HTTP_201_CREATED)

    @extend_schema(responses=serializers.RotationMemberSerializer(many=True))
    @action(detail=True)
    def devices(self, request: Request, id: Any) -> Response:  # noqa: A002 (the name in the URL)
        """Return the devices in the rotation and their states."""
        members = self.get_object().members.select_related("device", "credential").order_by("pk")
        page = self.paginate_queryset(members)
        return self.get_paginated_response(serializers.RotationMemberSerializer(page, many=True).data)

    def known_parameters(self) -> Any:
        """Return the names of the accepted query parameters."""
        return self.paginator.parameters if self.action in ("list", "devices") else ()  # type: ignore[union-attr]

    @extend_schema(request=serializers.ExtensionSerializer, responses=_SHOWN)
    @action(detail=True, methods=["post"], pagination_class=None)
    def extend(self, request: Request, id: Any) -> Response:  # noqa: A002
        """Give the devices until another deadline."""
        wanted = serializers.ExtensionSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        return self._changed(campaigns.extend, wanted.validated_data["deadline"])

    @extend_schema(request=None, responses=_SHOWN)
    @action(detail=True, methods=["post"], pagination_class=None)
    def end(self, request: Request, id: Any) -> Response:  # noqa: A002
        """End the old keys now, also of devices that have not moved."""
        refuse_body(request)
        return self._changed(campaigns.end)

    @extend_schema(request=None, responses=_SHOWN)
    @action(detail=True, methods=["post"], url_path="roll-back", pagination_class=None)
    def roll_back(self, request: Request, id: Any) -> Response:  # noqa: A002
        """Withdraw the new keys; the old ones are valid again."""
        refuse_body(request)
        return self._changed(campaigns.roll_back)

    @extend_schema(
        request=serializers.HandOverSerializer,
        responses={201: serializers.TokenSerializer(many=True), 400: ErrorSerializer, 503: ErrorSerializer},
    )
    @action(detail=True, methods=["post"], pagination_class=None)
    def tokens(self, request: Request, id: Any) -> Response:  # noqa: A002
        """Single-use tokens for devices that a person takes their keys to. They are in this answer and never again."""
        wanted = serializers.HandOverSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        made = tokens.hand_over(self.get_object(), wanted.validated_data["devices"], acting_user=self.acting_user)
        return Response(serializers.TokenSerializer(made, many=True).data, status.HTTP_201_CREATED)

    def _changed(self, change: Any, *args: Any) -> Response:
        campaign = self.get_object()
        change(campaign, *args, acting_user=self.acting_user)
        return Response(self.get_serializer(campaign).data)
