"""The readings of one metric, and of many series."""

import datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.visibility import selector_of
from devices.models import Device
from telemetry.api import parameters
from telemetry.api.device_selection import (
    SELECTING,
    refuse_unknown_names,
    refuse_unknown_types,
    select_devices,
    series_of_metric,
)
from telemetry.api.serializers import readings as shapes
from telemetry.api.series_selection import query_budget
from telemetry.api.unit_conversion import convert_rows
from telemetry.services.queries import calendar_intervals, completeness, readings, series_readings
from telemetry.services.queries.metric_series import MetricKey, SeriesFilter
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
        data = [{"time": time_text(row.time), "value": row.value, "unit": row.unit or None} for row in rows]
        if "unit" in self.request.query_params:
            convert_rows(self.request.query_params.getlist("unit"), data, self.request.query_params["metric"])
        return data

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
        answer.data |= completeness.completeness_data(warnings)
        return answer


def _reading_position(scope: str, cursor: str | None) -> readings.ReadingPosition | None:
    if cursor is None:
        return None
    time, series, key = cursors.decode(scope, cursor)
    return readings.ReadingPosition(datetime.datetime.fromisoformat(time), series, key)


class SeriesReadingsView(CursorPageView):
    """The readings of many series."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.SeriesReadingsParameters

    @extend_schema(
        operation_id="readings_series",
        parameters=[parameters.SeriesReadingsParameters],
        responses={200: shapes.SeriesReadingsPageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return the readings of many series, one metric after the other, each oldest first.

        The series are those of all devices, or of the selected ones: each further parameter narrows the selection. A
        page may hold fewer results than `limit` although there is a next.
        """
        wanted = self.valid_parameters()
        devices = self._selected_devices(wanted)
        ids = None if devices is None else [device.pk for device in devices]
        chosen = {name: wanted.get(name) for name in (*SELECTING, "component", "component_type", "metric")}
        scope = f"readings-series:{chosen}:{selector_of(request).stored()}"
        start, stop = wanted.get("from"), wanted.get("to")
        selection = SeriesFilter(ids, chosen["component"], chosen["metric"], chosen["component_type"])
        with query_budget("from"):
            page = series_readings.series_readings(
                selection,
                start=start,
                stop=stop,
                after=_series_position(scope, wanted.get("cursor")),
                limit=wanted["limit"],
            )
        following = None if page.end is None else self.next_address(scope, _series_token(page.end))
        warnings = completeness.partial_reasons(ids, start, stop, raw_from=start or calendar_intervals.EARLIEST)
        if following:
            warnings.append(completeness.next_page_reason())
        results = [_series_reading_data(one) for one in page.readings]
        if "unit" in wanted:
            convert_rows(wanted["unit"], results)
        return Response({"results": results, "next": following} | completeness.completeness_data(warnings))

    def _selected_devices(self, wanted: dict[str, Any]) -> list[Device] | None:
        """Return the selected devices, None for all of the tenant. Raises NotFound for unknown names."""
        devices = select_devices(self.request, wanted)
        if "cursor" not in wanted:
            refuse_unknown_types(wanted.get("component_type", ()))
            refuse_unknown_names(devices, wanted.get("component", ()), wanted.get("metric", ()))
        return devices


def _series_reading_data(one: series_readings.SeriesReading) -> dict[str, Any]:
    """Return the reading as SeriesReadingSerializer describes it, without it: a page holds up to 1000."""
    return {
        "device": str(one.device),
        "component": one.component,
        "metric": one.metric,
        "value": one.row.value,
        "unit": one.row.unit or None,
        "time": time_text(one.row.time),
    }


def _series_token(position: series_readings.SeriesPosition) -> list[Any]:
    reading = position.reading
    return [*position.key, *((reading.time.isoformat(), reading.series, reading.key) if reading else ())]


def _series_position(scope: str, cursor: str | None) -> series_readings.SeriesPosition | None:
    if cursor is None:
        return None
    device_id, component, metric, *reading = cursors.decode(scope, cursor)
    key = MetricKey(device_id, component, metric)
    if not reading:
        return series_readings.SeriesPosition(key)
    time, series, value = reading
    position = readings.ReadingPosition(datetime.datetime.fromisoformat(time), series, value)
    return series_readings.SeriesPosition(key, position)
