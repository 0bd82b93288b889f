"""The newest values of a device and of all devices."""

from collections.abc import Sequence
from typing import Any, ClassVar
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.filters import device_by_uuid
from devices.api.visibility import selector_of
from telemetry.api import parameters
from telemetry.api.device_selection import refuse_unknown_names, refuse_unknown_types, select_devices
from telemetry.api.serializers import readings as shapes
from telemetry.api.unit_conversion import convert_rows
from telemetry.services.queries import completeness, fleet_latest, readings
from telemetry.services.queries.metric_series import MetricKey, SeriesFilter
from tenants.api import cursors
from tenants.api.errors import ErrorSerializer
from tenants.api.serializers.base import time_text
from tenants.api.views.base import CursorPageView, DeviceScope, ParametersView


class LatestView(ParametersView):
    """The newest value of each metric of a device."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.LatestParameters

    @extend_schema(
        operation_id="devices_latest",
        parameters=[parameters.LatestParameters],
        responses={200: shapes.LatestPageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request, uuid: UUID) -> Response:
        """Return the newest value of each metric of a device."""
        wanted = self.valid_parameters()
        values = readings.latest_values(device_by_uuid(request, uuid, "uuid"))
        return Response({"results": _latest_data(values, wanted)})


class FleetLatestView(CursorPageView):
    """The newest values of all devices."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.FleetLatestParameters
    devices: ClassVar = ("device", "place", "tag")

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
        # A hardware model without devices has no values; the other names must exist.
        selected = select_devices(request, {name: wanted[name] for name in self.devices if name in wanted})
        refuse_unknown_types(wanted.get("component_type", ()))
        refuse_unknown_names(selected, wanted.get("component", ()), wanted.get("metric", ()))
        devices = None if selected is None else [device.pk for device in selected]
        names = (*self.devices, "component", "component_type", "metric", "hardware_model")
        scope = f"latest:{selector_of(request).stored()}:{ {name: wanted.get(name) for name in names} }"
        after = MetricKey(*cursors.decode(scope, wanted["cursor"])) if "cursor" in wanted else None
        selection = SeriesFilter(
            devices,
            wanted.get("component"),
            wanted.get("metric"),
            wanted.get("component_type"),
            wanted.get("hardware_model"),
        )
        page = fleet_latest.fleet_latest_values(selection, after=after, limit=wanted["limit"])
        following = None if page.end is None else self.next_address(scope, list(page.end))
        warnings = completeness.partial_reasons(devices, None, timezone.now()) + (
            [completeness.next_page_reason()] if following else []
        )
        results = _latest_data(page.values, wanted)
        for value, row in zip(page.values, results, strict=True):
            row["device"] = str(value.device)
        return Response({"results": results, "next": following} | completeness.completeness_data(warnings))


def _latest_data(
    values: Sequence[readings.LatestValue | fleet_latest.FleetLatestValue], wanted: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the values as LatestSerializer describes them, without it: a page holds up to 1000."""
    rows = [
        {
            "component": latest.component,
            "metric": latest.metric,
            "value": latest.value,
            "unit": latest.unit or None,
            "time": time_text(latest.time),
        }
        for latest in values
    ]
    if "unit" in wanted:
        convert_rows(wanted["unit"], rows)
    return rows
