"""The tenant's limits and what they refused."""

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from telemetry.api.filters import LimitHitFilter
from telemetry.api.serializers import limits as shapes
from telemetry.models import LimitHit
from telemetry.services.limits.overview import limits_now
from telemetry.services.usage import tenant_use
from tenants.api.views.base import DeviceScope, ObjectsView, ParametersView, TenantView


class LimitsView(TenantView):
    """The tenant's limits."""

    resource = "usage"

    @extend_schema(operation_id="limits_list", responses=shapes.LimitsPageSerializer)
    def get(self, request: Request) -> Response:
        """Return the limits of the tenant and its devices, their use, and how many messages they rejected today."""
        return Response({"results": shapes.LimitSerializer(limits_now(), many=True).data})


class UsageView(ParametersView):
    """The use of the tenant."""

    resource = "usage"
    parameters_class = shapes.UsageParameters

    @extend_schema(operation_id="usage", parameters=[shapes.UsageParameters], responses=shapes.UsageSerializer)
    def get(self, request: Request) -> Response:
        """Return the plan of the tenant, its devices, its messages and readings by day, its storage and its limits."""
        return Response(shapes.UsageSerializer(tenant_use(self.valid_parameters()["days"])).data)


class LimitHitViewSet(mixins.ListModelMixin, ObjectsView, viewsets.GenericViewSet):
    """Messages that each limit rejected, newest day (UTC) first."""

    resource = "usage"
    device_scope = DeviceScope.DEVICES
    device_path = "device"
    queryset = LimitHit.objects.select_related("device").order_by("-day", "limit", "-count", "pk")
    serializer_class = shapes.LimitHitSerializer
    filterset_class = LimitHitFilter
