"""The newest values of a device and of all devices."""

from typing import Any, ClassVar
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.filters import device_by_uuid
from devices.api.visibility import selector_of
from telemetry.api import parameters
from telemetry.api.device_selection import refuse_unknown_names, requested_devices
from telemetry.api.serializers import readings as shapes
from telemetry.services.queries import completeness, fleet_latest, readings
from tenants.api import cursors
from tenants.api.errors import ErrorSerializer
from tenants.api.serializers.base import time_text
from tenants.api.views.base import CursorPageView, DeviceScope, TenantView


class LatestView(TenantView):
    """The newest value of each metric of a device."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES

    @extend_schema(operation_id="devices_latest", responses=shapes.LatestPageSerializer)
    def get(self, request: Request, uuid: UUID) -> Response:
        """Return the newest value of each metric of a device."""
        values = readings.latest_values(device_by_uuid(request, uuid))
        return Response({"results": [_latest_data(value) for value in values]})


class FleetLatestView(CursorPageView):
    """The newest values of all devices."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.FleetLatestParameters
    filters: ClassVar = ("component", "metric", "hardware_model")

    @extend_schema(
        operation_id="latest_list",
        parameters=[parameters.FleetLatestParameters],
        responses={200: shapes.FleetLatestPageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return the newest value of each metric of all devices, or of the selected ones.

        By device, component and metric. A page may hold fewer results than `limit` although there is a next.
        """
        wanted = self.valid_parameters()
        selected = requested_devices(request, wanted)
        names = ([wanted[name]] if name in wanted else [] for name in ("component", "metric"))
        refuse_unknown_names(selected, *names)
        devices = None if selected is None else [device.pk for device in selected]
        narrowed = {name: wanted.get(name) for name in self.filters}
        scope = f"latest:{wanted.get('device')}:{selector_of(request).stored()}:{narrowed}"
        after = cursors.decode(scope, wanted["cursor"]) if "cursor" in wanted else None
        page = fleet_latest.fleet_latest_values(devices=devices, after=after, limit=wanted["limit"], **narrowed)
        following = None if page.end is None else self.next_address(scope, list(page.end))
        warnings = completeness.partial_reasons(devices, None, timezone.now()) + (
            [completeness.next_page_reason()] if following else []
        )
        results = [{**_latest_data(value), "device": str(value.device)} for value in page.values]
        return Response({"results": results, "next": following} | completeness.completeness_data(warnings))


def _latest_data(latest: readings.LatestValue | fleet_latest.FleetLatestValue) -> dict[str, Any]:
    """Return the value as LatestSerializer describes it, without it: a page holds up to 1000."""
    return {
        "component": latest.component,
        "metric": latest.metric,
        "value": latest.value,
        "unit": latest.unit or None,
        "time": time_text(latest.time),
    }
