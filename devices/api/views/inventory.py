"""Devices and their components. Operators and writing keys change them."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar, cast

from django.db import transaction
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from devices.api import filters
from devices.api.object_changes import MirroredObjects, MirroredPage
from devices.api.serializers import components as component_serializers
from devices.api.serializers import inventory as serializers
from devices.api.visibility import require_visible
from devices.models import Component, Device, DeviceCredential
from devices.services.presence.timeouts import prefetched, prefetched_components
from devices.services.provisioning import activation, registration
from tenants.api.errors import ErrorSerializer
from tenants.api.views.base import FIELDS, DeviceScope, ObjectsView
from tenants.services.roles import Role

from .base import AuditedUpdate, TenantModelViewSet

_WITHOUT_VAULT = {503: ErrorSerializer}
_ATTRIBUTE = OpenApiParameter(
    "attribute.NAME",
    description=(
        "Devices whose attribute NAME is this text, or the number or boolean that it spells. Several attributes can be"
        " given."
    ),
)


_WITH_FIELDS = extend_schema(parameters=[FIELDS])


@extend_schema_view(list=_WITH_FIELDS, retrieve=_WITH_FIELDS)
class ComponentViewSet(MirroredObjects, TenantModelViewSet):
    """Sensors and actuators on the devices."""

    kind = "components"
    orderings: ClassVar = {"key": "key", "device": "device__uuid", "component_type": "component_type__key"}
    resource = "devices"
    device_scope = DeviceScope.DEVICES
    device_path = "device"
    role_to_write = Role.OPERATOR
    queryset = Component.objects.select_related("device", "component_type").order_by("device__uuid", "key")
    serializer_class = component_serializers.ComponentSerializer
    filterset_class = filters.ComponentFilter

    def paginate_queryset(self, queryset: Any) -> Any:
        """Return the page that the request asks for."""
        page = super().paginate_queryset(queryset)
        self.prepare(page or ())
        return page

    def prepare(self, rows: Iterable[Any]) -> None:
        """Read the last reports of all components at once."""
        component_serializers.note_reports(rows)


@extend_schema_view(list=_WITH_FIELDS, retrieve=_WITH_FIELDS)
class DeviceViewSet(
    MirroredObjects,
    mixins.RetrieveModelMixin,
    AuditedUpdate,
    mixins.ListModelMixin,
    ObjectsView,
    viewsets.GenericViewSet,
):
    """The devices: their state, components and keys."""

    kind = "devices"
    orderings: ClassVar = {
        **{name: name for name in ("name", "uuid", "external_id", "cpu_serial", "created_at")},
        "place": "place__path",
        "status": "presence__status",
        "status_changed_at": "presence__since",
    }
    pagination_class = MirroredPage
    resource = "devices"
    device_scope = DeviceScope.DEVICES
    device_path = "pk"
    role_to_write = Role.OPERATOR
    http_method_names = ("get", "head", "post", "patch", "delete")
    lookup_value_converter = "uuid"
    lookup_field = "uuid"
    queryset = Device.objects.select_related(
        "presence", "contact", "omissions", "hardware_model", "place", "gateway"
    ).prefetch_related(
        prefetched_components(),
        prefetched("credentials", DeviceCredential.objects.order_by("-version")),
    )
    serializer_class = serializers.DeviceSerializer
    filterset_class = filters.DeviceFilter

    def needed_scope(self, reading: bool) -> str:
        """Return the scope that an API key needs."""
        return "credentials:write" if self.action == "keys" else super().needed_scope(reading)

    def known_parameters(self) -> Iterable[str]:
        """Return the names of the accepted query parameters: each attribute is one."""
        known = super().known_parameters()
        request = getattr(self, "request", None)
        if request is None or getattr(self, "action", "list") != "list":
            return known
        return {*known, *filter(filters.is_attribute_parameter, request.query_params)}

    def paginate_queryset(self, queryset: Any) -> Any:
        """Return the page that the request asks for."""
        page = super().paginate_queryset(queryset)
        self.prepare(page or ())
        return page

    def prepare(self, rows: Iterable[Any]) -> None:
        """Read the presence of all devices at once, if it is shown."""
        fields = self.wanted_fields()
        if fields is None or fields & serializers.PRESENCE_MEMBERS:
            serializers.note_presence(rows)

    @extend_schema(parameters=[_ATTRIBUTE])
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """List the devices; with `changed_since` those that were changed, and the UUIDs of removed ones.

        Changes of the state are at status-changes/.
        """
        return super().list(request, *args, **kwargs)

    @extend_schema(
        request=serializers.RegistrationSerializer,
        responses={201: serializers.RegisteredDeviceSerializer, **_WITHOUT_VAULT},
    )
    def create(self, request: Request) -> Response:
        """Register a device. Its credentials are in this answer and never again."""
        wanted = serializers.RegistrationSerializer(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        parts = wanted.validated_data.pop("components", ())
        with transaction.atomic():
            device, issued = registration.register_device(
                **wanted.validated_data,
                components={part["key"]: part["component_type"] for part in parts},
                expected_intervals={part["key"]: part.get("expected_interval") for part in parts},
                acting_user=self.acting_user,
            )
            require_visible(request, device)
        shown = self.get_serializer(self.get_queryset().get(pk=device.pk)).data
        return Response(shown | {"credentials": serializers.credentials_data(issued)}, status.HTTP_201_CREATED)

    def perform_update(self, serializer: BaseSerializer[Any]) -> None:
        """Switching a device off or on is more than a column."""
        active = serializer.validated_data.pop("active", None)
        with transaction.atomic():
            if serializer.validated_data:
                super().perform_update(serializer)
                require_visible(self.request, cast("Device", serializer.instance))
            if active is not None:
                activation.set_active(self.get_object(), active, acting_user=self.acting_user)
        serializer.instance = self.get_object()  # with the state and the timeout that follow from the change

    @extend_schema(responses={204: None, 409: ErrorSerializer})
    def destroy(self, request: Request, uuid: Any) -> Response:
        """Remove a device that never sent a reading; one that has is deactivated instead."""
        registration.remove_device(self.get_object(), acting_user=self.acting_user)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(
        request=serializers.RotationSerializer,
        responses={201: serializers.CredentialsSerializer, **_WITHOUT_VAULT},
    )
    @action(detail=True, methods=["post"], url_path="keys", filterset_class=None, pagination_class=None)
    def keys(self, request: Request, uuid: Any) -> Response:
        """Issue the device's next key; those before it stay valid for a while."""
        wanted = serializers.RotationSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        seconds = wanted.validated_data.get("overlap_seconds")
        overlap = registration.ROTATION_OVERLAP if seconds is None else timedelta(seconds=seconds)
        issued = registration.rotate_key(self.get_object(), overlap=overlap, acting_user=self.acting_user)
        return Response(serializers.credentials_data(issued), status.HTTP_201_CREATED)
