"""Charts: lines of few points that look like all readings."""

import datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from telemetry.api import parameters
from telemetry.api.serializers import readings as shapes
from telemetry.api.series_selection import (
    MAX_RESULTS,
    MAX_SERIES,
    query_budget,
    select_series,
    series_data,
    time_range,
)
from telemetry.api.unit_conversion import UnitTarget, series_targets, unit_converter
from telemetry.services.queries import charts, completeness
from tenants.api.errors import ErrorSerializer
from tenants.api.serializers.base import Timestamp
from tenants.api.views.base import DeviceScope, ParametersView

_time = Timestamp().to_representation


class ChartView(ParametersView):
    """Lines of few points."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.ChartParameters

    @extend_schema(
        operation_id="readings_chart",
        parameters=[parameters.ChartParameters],
        responses={200: shapes.ChartSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Lines of numbers and booleans with at most `max_points` points each that look like all readings.

        The points are readings: all, or the least and the greatest of every bucket, the first and the last, and what
        changes the line the most. The `max_points` / 2 - 1 buckets divide the part of the range that has readings.
        Only where there are very many readings, or they are no longer kept, the least and the greatest of each hour
        replace them.
        """
        wanted = self.valid_parameters()
        requested, most, converter = time_range(wanted), wanted["max_points"], unit_converter(wanted)
        chosen = select_series(request, wanted, min(MAX_SERIES, MAX_RESULTS // most))
        with query_budget("from"):
            found = charts.series_lines(chosen.series, requested.start, requested.stop, most)
        shown = [line.series for line in found]
        exact = any(line.resolution == 0.0 for line in found)
        warnings = completeness.partial_reasons(
            [device.pk for device in chosen.devices],
            requested.start,
            requested.requested_stop,
            raw_from=requested.start if exact else None,
            rolled_from=requested.start,
        )
        targets = series_targets(converter, shown)
        series = [
            series_data(chosen, line.series, shown, targets[line.series.pk].unit)
            | _chart_data(line, targets[line.series.pk])
            for line in found
        ]
        document = {"from": _time(requested.start), "to": _time(requested.stop), "series": series}
        return Response(document | completeness.completeness_data(warnings))


def _chart_data(line: charts.SeriesLine, target: UnitTarget) -> dict[str, Any]:
    return {
        "points": [{"time": _unix(at), "value": target.value(value)} for at, value in line.points],
        "silences": [[_unix(earlier), _unix(later)] for earlier, later in line.gaps],
        "resolution_seconds": line.resolution,
    }


def _unix(at: float) -> str:
    return _time(datetime.datetime.fromtimestamp(at, datetime.UTC))
