"""What the tenant may send, and what its limits refused."""

from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.filters import OfDevice
from devices.api.views.base import TenantObjects, TenantView
from telemetry.models import LimitHit
from telemetry.services.limits.overview import limits_now
from tenants.services.limits import LimitName

from . import serializers as shapes
from .views import TotalsFilter


class LimitsView(TenantView):
    """What the tenant may send."""

    @extend_schema(operation_id="limits_list", responses=shapes.LimitsPageSerializer)
    def get(self, request: Request) -> Response:
        """What the tenant and each of its devices may send, how much of it is used, and what was refused today."""
        return Response({"results": shapes.LimitSerializer(limits_now(), many=True).data})


class LimitHitFilter(OfDevice, TotalsFilter):
    """By day, limit and device."""

    name = filters.ChoiceFilter(
        field_name="limit", choices=[(name.value, name.value) for name in LimitName], label="The limit's name."
    )


class LimitHitViewSet(mixins.ListModelMixin, TenantObjects, viewsets.GenericViewSet):
    """What each limit refused, newest day (UTC) first."""

    queryset = LimitHit.objects.select_related("device").order_by("-day", "limit", "-times", "pk")
    serializer_class = shapes.LimitHitSerializer
    filterset_class = LimitHitFilter
