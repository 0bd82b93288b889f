"""Aggregates of readings by calendar intervals."""

import datetime
from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from devices.models import Metric
from telemetry.api import parameters
from telemetry.api.serializers import readings as shapes
from telemetry.api.series_selection import (
    MAX_SERIES,
    query_budget,
    requested_edges,
    select_series,
    series_data,
    series_to_show,
    time_range,
)
from telemetry.api.unit_conversion import UnitTarget, series_targets, unit_converter
from telemetry.models import Series
from telemetry.services.queries import completeness
from telemetry.services.queries.aggregates import AggregateBucket, aggregate
from tenants.api.errors import ErrorSerializer
from tenants.api.serializers.base import Timestamp
from tenants.api.views.base import DeviceScope, ParametersView

Text, Boolean = Metric.ValueType.TEXT, Metric.ValueType.BOOLEAN
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

        Intervals follow the clock of the time zone: a day can have 23 or 25 hours. The first and the last interval
        contain only the readings within the range. A metric whose unit was changed has one entry for each unit.
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
        warnings = completeness.partial_reasons(
            [device.pk for device in chosen.devices],
            requested.start,
            requested.requested_stop,
            raw_from=answer.raw_from,
            rolled_from=answer.rolled_from,
        )
        rows = _Rows(wanted, edges)
        filled = {pk for pk, buckets in answer.buckets.items() if buckets}
        shown = series_to_show(chosen.series, filled)
        targets = series_targets(converter, shown, {one.pk for one in shown} - filled)
        series = [
            series_data(chosen, one, shown, targets[one.pk].unit)
            | {"results": rows.results_of(one, answer.buckets[one.pk], targets[one.pk])}
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


class _Rows:
    """The results of an answer."""

    def __init__(self, wanted: dict[str, Any], edges: Sequence[datetime.datetime]) -> None:
        self._names = wanted.get("aggregate") or parameters.AGGREGATES
        self._fill: str = wanted["fill"]
        self._starts = [edge.astimezone(wanted["timezone"]).isoformat() for edge in edges[:-1]]

    def results_of(self, one: Series, buckets: dict[int, AggregateBucket], target: UnitTarget) -> list[dict[str, Any]]:
        """Return the results of a series in order of time."""
        names = [name for name in self._names if one.value_type != Text or name in ("count", "last")]
        own, rows, last = {number: target.bucket(measured) for number, measured in buckets.items()}, [], None
        for number in range(len(self._starts)) if self._fill != "none" else own:
            bucket = own.get(number)
            if bucket is not None:
                last = _of_type(bucket.last, one.value_type)
                values = _values(bucket, one.value_type)
            else:
                values = _nothing(last if self._fill == "previous" else None, one.value_type)
            rows.append({"starts_at": self._starts[number]} | {name: values[name] for name in names})
        return rows


def _values(bucket: AggregateBucket, kind: str) -> dict[str, Any]:
    return {
        "count": bucket.count,
        "min": _of_type(bucket.min, kind),
        "max": _of_type(bucket.max, kind),
        "avg": bucket.avg,
        "sum": bucket.sum,
        "last": _of_type(bucket.last, kind),
    }


def _nothing(last: Any, kind: str) -> dict[str, Any]:
    """Return the values of an interval without readings; `last` is the previous value, or None."""
    mean = None if last is None or kind == Text else float(last)
    return {"count": 0, "min": last, "max": last, "avg": mean, "sum": None, "last": last}


def _of_type(value: float | str | None, kind: str) -> float | bool | str | None:
    return bool(value) if kind == Boolean and value is not None else value
