"""The readings of one metric."""

import datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from telemetry.api import parameters
from telemetry.api.serializers import readings as shapes
from telemetry.api.series_selection import completeness_data, series_of_metric
from telemetry.services.queries import calendar_intervals, completeness, readings
from tenants.api import cursors
from tenants.api.errors import ErrorSerializer
from tenants.api.serializers.base import time_text
from tenants.api.views.base import CursorPageView, DeviceScope


class ReadingsView(CursorPageView):
    """The readings of one metric of one component."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.ReadingsParameters
    row_class = shapes.ReadingSerializer

    def row_data(self, rows: list[Any]) -> list[Any]:
        """Return the rows as ReadingSerializer describes them, without it: a page holds up to 1000."""
        return [{"time": time_text(row.time), "value": row.value, "unit": row.unit or None} for row in rows]

    @extend_schema(
        operation_id="readings_list",
        parameters=[parameters.ReadingsParameters],
        responses={200: shapes.ReadingsPageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return the readings of one metric of one component, oldest first.

        Where the metric's unit was changed, those before the change carry the unit that they were measured in.
        """
        wanted = self.valid_parameters()
        device, series = series_of_metric(request, wanted["device"], wanted["component"], wanted["metric"])
        scope = f"readings:{device.uuid}:{wanted['component']}:{wanted['metric']}"
        rows = readings.readings(
            series,
            start=wanted.get("from"),
            stop=wanted.get("to"),
            after=_reading_position(scope, wanted.get("cursor")),
            limit=wanted["limit"] + 1,
        )
        answer = self.page(rows, wanted["limit"], scope, lambda row: [row.time.isoformat(), row.series, row.key])
        start, stop = wanted.get("from"), wanted.get("to")
        warnings = completeness.partial_reasons([device.pk], start, stop, raw_from=start or calendar_intervals.EARLIEST)
        if answer.data["next"]:
            warnings.append(completeness.next_page_reason())
        answer.data |= completeness_data(warnings)
        return answer


def _reading_position(scope: str, cursor: str | None) -> readings.ReadingPosition | None:
    if cursor is None:
        return None
    time, series, key = cursors.decode(scope, cursor)
    return readings.ReadingPosition(datetime.datetime.fromisoformat(time), series, key)
