"""Aggregates of readings by calendar intervals."""

import datetime
from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from telemetry.api import parameters
from telemetry.api.aggregate_rows import AggregateRows, requested_max_gap, wants_interpolation
from telemetry.api.serializers import readings as shapes
from telemetry.api.series_selection import (
    MAX_SERIES,
    TimeRange,
    query_budget,
    requested_edges,
    select_series,
    series_data,
    series_to_show,
    time_range,
)
from telemetry.api.unit_conversion import series_targets, unit_converter
from telemetry.models import Series
from telemetry.services.queries import completeness
from telemetry.services.queries.aggregates import aggregate
from telemetry.services.queries.interpolation import InterpolatedBuckets, interpolated_aggregates
from tenants.api.errors import ErrorSerializer
from tenants.api.serializers.base import Timestamp
from tenants.api.views.base import DeviceScope, ParametersView

_time = Timestamp().to_representation


class AggregatesView(ParametersView):
    """Aggregates of series by intervals."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.AggregatesParameters

    @extend_schema(
        operation_id="readings_aggregates",
        parameters=[parameters.AggregatesParameters],
        responses={200: shapes.AggregatesSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return count, minimum, maximum, mean, sum and last value of the readings in each interval of each series.

        `delta`, `rate` and `integral` are those of the line through the readings. Intervals follow the clock of the
        time zone: a day can have 23 or 25 hours. The first and the last interval contain only the part within the
        range. A metric whose unit was changed has one entry for each unit.
        """
        wanted = self.valid_parameters()
        requested, converter = time_range(wanted), unit_converter(wanted)
        chosen = select_series(request, wanted, MAX_SERIES)
        edges = requested_edges(
            wanted,
            requested,
            len(chosen.series),
            _(
                "The range contains more than %(most)d intervals of %(interval)s, the most for %(count)d series."
                " Use a longer interval (%(longer)s), a shorter range or fewer series."
            ),
        )
        with query_budget("from"):
            answer = aggregate(chosen.series, edges, requested.start, requested.stop)
            lines = _lines(wanted, chosen.series, edges, requested)
        warnings = completeness.partial_reasons(
            [device.pk for device in chosen.devices],
            requested.start,
            requested.requested_stop,
            raw_from=requested.start if lines else answer.raw_from,
            rolled_from=answer.rolled_from,
        )
        rows = AggregateRows(wanted, edges)
        filled = {pk for pk, buckets in answer.buckets.items() if buckets or lines.get(pk)}
        shown = series_to_show(chosen.series, filled)
        targets = series_targets(converter, shown, {one.pk for one in shown} - filled)
        series = [
            series_data(chosen, one, shown, targets[one.pk].unit)
            | {"results": rows.results_of(one, answer.buckets[one.pk], lines.get(one.pk, {}), targets[one.pk])}
            for one in shown
        ]
        document = {
            "from": _time(requested.start),
            "to": _time(requested.stop),
            "interval": str(wanted["interval"]),
            "timezone": str(wanted["timezone"]),
            "series": series,
        }
        return Response(document | completeness.completeness_data(warnings))


def _lines(
    wanted: dict[str, Any], series: Sequence[Series], edges: Sequence[datetime.datetime], requested: TimeRange
) -> InterpolatedBuckets:
    """Return the lines of the series in the intervals; nothing unless the request needs them."""
    if not wants_interpolation(wanted):
        return {}
    max_gap = requested_max_gap(wanted)
    return interpolated_aggregates(series, edges, requested.start, requested.stop, max_gap=max_gap)
