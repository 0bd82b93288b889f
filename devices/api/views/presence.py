"""History, timeline and availability of a device, maintenance windows, and the tenant's rules of presence."""

from typing import Any, ClassVar
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api import filters, parameters
from devices.api.filters import device_by_uuid
from devices.api.object_changes import MirroredObjects
from devices.api.serializers import presence as shapes
from devices.models import MaintenanceWindow, PresenceSettings
from devices.services import audit
from devices.services.presence import status_changes
from tenants.api import cursors
from tenants.api.entity_tags import TaggedView
from tenants.api.errors import ErrorSerializer
from tenants.api.views.base import CursorPageView, DeviceScope, ParametersView
from tenants.services.roles import Role

from .base import AuditedView, TenantModelViewSet

_NOT_FOUND = {404: ErrorSerializer}


class HistoryView(CursorPageView):
    """The changes of a device's state."""

    resource = "devices"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.HistoryParameters
    row_class = shapes.StatusChangeSerializer

    @extend_schema(
        operation_id="devices_history",
        parameters=[parameters.HistoryParameters],
        responses={200: shapes.HistoryPageSerializer, **_NOT_FOUND},
    )
    def get(self, request: Request, uuid: UUID) -> Response:
        """Return the changes of a device's status, newest first, each with its evidence."""
        wanted = self.valid_parameters()
        device = device_by_uuid(request, uuid)
        narrowed = {name: wanted.get(name, "") for name in ("cause", "status")}
        scope = f"history:{device.uuid}:{narrowed['cause']}:{narrowed['status']}"
        before = cursors.decode(scope, wanted["cursor"])[0] if "cursor" in wanted else None
        rows = status_changes.list_changes(
            device,
            start=wanted.get("from"),
            stop=wanted.get("to"),
            before=before,
            limit=wanted["limit"] + 1,
            **narrowed,
        )
        return self.page(rows, wanted["limit"], scope, lambda row: [row.pk])


class TimelineView(ParametersView):
    """A device's states over a time."""

    resource = "devices"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.TimelineParameters

    @extend_schema(
        operation_id="devices_timeline",
        parameters=[parameters.TimelineParameters],
        responses={200: shapes.TimelineSerializer, **_NOT_FOUND},
    )
    def get(self, request: Request, uuid: UUID) -> Response:
        """Return a device's states in a range, oldest first, without gaps: the last 24 hours by default."""
        wanted = self.valid_parameters()
        device = device_by_uuid(request, uuid)
        span = wanted["from"], wanted["to"]
        answer = wanted | {
            "results": status_changes.timeline(device, *span),
            "maintenance_windows": status_changes.maintenance_windows(device, *span),
        }
        return Response(shapes.TimelineSerializer(answer).data)


class AvailabilityView(ParametersView):
    """A device's availability by month."""

    resource = "devices"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.AvailabilityParameters

    @extend_schema(
        operation_id="devices_availability",
        parameters=[parameters.AvailabilityParameters],
        responses={200: shapes.AvailabilityPageSerializer, **_NOT_FOUND},
    )
    def get(self, request: Request, uuid: UUID) -> Response:
        """Availability, outages and the time between them, by month, newest month first."""
        wanted = self.valid_parameters()
        device = device_by_uuid(request, uuid)
        year, month = wanted["month"]
        months = status_changes.recent_months(year, month, wanted["months"], wanted["timezone"], timezone.now())
        results = [
            {
                "month": one.name,
                "from": one.start,
                "to": one.stop,
                "percent": figures.percent,
                "outages": figures.outages,
                "longest_outage_seconds": figures.longest_outage_seconds,
                "mean_time_between_failures_seconds": figures.mean_time_between_failures_seconds,
                "known_seconds": figures.known_seconds,
            }
            for one, figures in zip(months, status_changes.monthly_availability(device, months), strict=True)
        ]
        answer = {"timezone": wanted["timezone"].key, "results": results}
        return Response(shapes.AvailabilityPageSerializer(answer).data)


class MaintenanceWindowViewSet(MirroredObjects, TenantModelViewSet):
    """Maintenance windows of devices: changes are recorded, and apps are not notified."""

    kind = "maintenance-windows"
    orderings: ClassVar = {"starts_at": "starts_at", "ends_at": "ends_at"}
    resource = "devices"
    device_scope = DeviceScope.DEVICES
    device_path = "device"
    role_to_write = Role.OPERATOR
    queryset = MaintenanceWindow.objects.select_related("device").order_by("-starts_at", "-id")
    serializer_class = shapes.MaintenanceWindowSerializer
    filterset_class = filters.MaintenanceWindowFilter


class PresenceSettingsView(TaggedView, AuditedView):
    """The tenant's rules of presence."""

    resource = "metadata"
    device_scope = DeviceScope.SHARED

    def lock_object(self) -> None:
        """Lock the settings until the end of the transaction; create them if they were never changed."""
        PresenceSettings.objects.select_for_update().get_or_create(pk=1)

    def object_serializer(self) -> shapes.PresenceSettingsSerializer:
        """Return the serializer of the settings as they are."""
        return shapes.PresenceSettingsSerializer(PresenceSettings.current())

    def object_serializer_class(self) -> type[shapes.PresenceSettingsSerializer]:
        """Return the class of the serializer."""
        return shapes.PresenceSettingsSerializer

    @extend_schema(operation_id="presence_settings", responses=shapes.PresenceSettingsSerializer)
    def get(self, request: Request) -> Response:
        """Return the tenant's rules of presence; the defaults until they are changed."""
        return Response(shapes.PresenceSettingsSerializer(PresenceSettings.current()).data)

    @extend_schema(
        operation_id="presence_settings_update",
        request=shapes.PresenceSettingsSerializer,
        responses=shapes.PresenceSettingsSerializer,
    )
    def patch(self, request: Request) -> Response:
        """Change the tenant's rules of presence."""
        with transaction.atomic():
            current, _ = PresenceSettings.objects.select_for_update().get_or_create(pk=1)
            serializer = shapes.PresenceSettingsSerializer(current, data=request.data, partial=True)
            serializer.is_valid(raise_exception=True)
            changed: dict[str, Any] = serializer.validated_data
            with audit.changing(self.acting_user, "change", current, ", ".join(sorted(changed))):
                serializer.save()
        return Response(serializer.data)
