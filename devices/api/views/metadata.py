"""Units, hardware models, component types and metrics. Administrators and writing keys change them."""

from typing import Any, ClassVar

from django.db.models import Prefetch
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api import filters
from devices.api.object_changes import MirroredObjects
from devices.api.serializers import metadata as serializers
from devices.models import ComponentType, HardwareModel, Metric, Unit
from tenants.api.errors import ErrorSerializer
from tenants.api.views.base import DeviceScope

from .base import TenantModelViewSet


class UnitViewSet(MirroredObjects, TenantModelViewSet):
    """Units of measurement. A new tenant has those that sensors use."""

    kind = "units"
    orderings: ClassVar = {"symbol": "symbol", "quantity": "quantity"}
    is_shared = True
    resource = "metadata"
    device_scope = DeviceScope.SHARED
    queryset = Unit.objects.all()
    serializer_class = serializers.UnitSerializer
    filterset_class = filters.UnitFilter


class HardwareModelViewSet(MirroredObjects, TenantModelViewSet):
    """Boards and their revisions, and which component types may be attached to them."""

    kind = "hardware-models"
    orderings: ClassVar = {"name": "name", "version": "version"}
    is_shared = True
    resource = "metadata"
    device_scope = DeviceScope.SHARED
    queryset = HardwareModel.objects.prefetch_related("allowed_component_types")
    serializer_class = serializers.HardwareModelSerializer
    filterset_class = filters.HardwareModelFilter


class ComponentTypeViewSet(MirroredObjects, TenantModelViewSet):
    """Kinds of sensors and actuators, with their metrics (written at metrics/)."""

    kind = "component-types"
    orderings: ClassVar = {"key": "key", "name": "name"}
    is_shared = True
    resource = "metadata"
    device_scope = DeviceScope.SHARED
    queryset = ComponentType.objects.prefetch_related(
        Prefetch("metrics", Metric.objects.select_related("unit", "sent_unit"))
    )
    serializer_class = serializers.ComponentTypeSerializer
    filterset_class = filters.ComponentTypeFilter


class MetricViewSet(MirroredObjects, TenantModelViewSet):
    """Metrics of a component type: the path of a value in messages, its type, unit and range."""

    kind = "metrics"
    orderings: ClassVar = {"key": "key", "component_type": "component_type__key"}
    is_shared = True
    resource = "metadata"
    device_scope = DeviceScope.SHARED
    queryset = Metric.objects.select_related("component_type", "unit", "sent_unit").order_by(
        "component_type__key", "key"
    )
    serializer_class = serializers.MetricSerializer
    filterset_class = filters.MetricFilter

    @extend_schema(responses={204: None, 409: ErrorSerializer})
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Delete a metric. Its stored readings stay, under its key and unit, and can still be read.

        Values at its path in later messages have no metric: `unmapped` of the component type says what becomes of them.
        """
        return super().destroy(request, *args, **kwargs)
