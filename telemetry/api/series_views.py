"""What is read of many series at once: aggregates, charts, exports, and the newest values of the fleet."""

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from devices.api.views.events import AnyAccepted
from devices.api.views.ranges import ParameterView
from devices.api.watching import watcher_of
from devices.models import Metric
from telemetry.models import Series
from telemetry.services.export import readings
from telemetry.services.queries import calendar_intervals, charts, completeness, fleet_latest
from telemetry.services.queries.aggregates import Bucket, Buckets, aggregate
from telemetry.services.queries.completeness import Lack
from telemetry.services.queries.query_budget import TooMuchWork, bounded
from tenants.api import cursors
from tenants.api.errors import ErrorSerializer
from tenants.api.fields import Timestamp
from tenants.infrastructure.schema_context import current_schema

from . import parameters
from . import serializers as shapes
from .choosing import Chosen, choose, devices_of

MOST_SERIES = 100
# Intervals of all series together, and points of all lines together.
MOST_RESULTS = 25_000

Text, Boolean = Metric.ValueType.TEXT, Metric.ValueType.BOOLEAN
_time = Timestamp().to_representation


class ListsView(ParameterView):
    """A view of whose parameters some, its lists, may be given several times."""

    def repeatable_parameters(self) -> list[str]:
        fields = self.parameters_class().fields
        return [name for name, field in fields.items() if isinstance(field, serializers.ListField)]

    def wanted(self) -> dict[str, Any]:
        """The query parameters, checked."""
        lists, query = self.repeatable_parameters(), self.request.query_params
        given = {name: query.getlist(name) if name in lists else query[name] for name in query}
        checked = self.parameters_class(data=given)
        checked.is_valid(raise_exception=True)
        return checked.validated_data


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a range in which there can be readings: start ≤ time < stop. `asked_stop` is what was asked for."""

    start: datetime.datetime
    stop: datetime.datetime
    asked_stop: datetime.datetime | None


def span_of(wanted: dict[str, Any]) -> Span:
    """The range of a request. Raises ValidationError for one that is all in the future."""
    now = timezone.now()
    latest = now + timedelta(seconds=settings.INGEST_FUTURE_SECONDS)
    start = max(wanted.get("from", calendar_intervals.EARLIEST), calendar_intervals.EARLIEST)
    stop = min(wanted.get("to", now), latest)
    if start >= stop:
        raise ValidationError({"from": _("Nothing is measured yet at this time: it is in the future.")})
    return Span(start, stop, wanted.get("to", stop))


class AggregatesView(ListsView):
    """Aggregates of series by intervals."""

    parameters_class = parameters.AggregatesParameters

    @extend_schema(
        operation_id="readings_aggregates",
        parameters=[parameters.AggregatesParameters],
        responses={200: shapes.AggregatesSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Count, least, greatest, mean, sum and last of the readings in each interval, series by series.

        Intervals begin where the clocks of the time zone say, so that a day may have 23 or 25 hours; the first and
        the last hold what of them is within the range. Where a metric's unit was changed there is an entry for each.
        """
        wanted = self.wanted()
        span = span_of(wanted)
        chosen = choose(wanted, MOST_SERIES)
        edges = _edges(wanted, span, len(chosen.series))
        with _effort("from"):
            answer = aggregate(chosen.series, edges, span.start, span.stop)
        lacks = completeness.lacks(
            [device.pk for device in chosen.devices],
            span.start,
            span.asked_stop,
            raw_from=answer.raw_from,
            rolled_from=answer.rolled_from,
        )
        rows = _Rows(wanted, edges)
        told = _with_readings(chosen.series, {pk for pk, buckets in answer.buckets.items() if buckets})
        series = [_described(chosen, one, told) | {"results": rows.of(one, answer.buckets)} for one in told]
        document = {
            "from": _time(span.start),
            "to": _time(span.stop),
            "interval": str(wanted["interval"]),
            "timezone": str(wanted["timezone"]),
            "series": series,
        }
        return Response(document | _completeness(lacks))


class ChartView(ListsView):
    """Lines of few points."""

    parameters_class = parameters.ChartParameters

    @extend_schema(
        operation_id="readings_chart",
        parameters=[parameters.ChartParameters],
        responses={200: shapes.ChartSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Lines of numbers and booleans with at most `max_points` points each that look like all readings.

        The points are readings, chosen by largest triangle three buckets; no peak is lost. Only where there are very
        many, or the readings are no longer kept, the least and the greatest of each hour stand for them.
        """
        wanted = self.wanted()
        span, most = span_of(wanted), wanted["max_points"]
        chosen = choose(wanted, min(MOST_SERIES, MOST_RESULTS // most))
        with _effort("from"):
            found = charts.lines(chosen.series, span.start, span.stop, most)
        told = [line.series for line in found]
        exact = any(line.resolution == 0.0 for line in found)
        lacks = completeness.lacks(
            [device.pk for device in chosen.devices],
            span.start,
            span.asked_stop,
            raw_from=span.start if exact else None,
            rolled_from=span.start,
        )
        series = [_described(chosen, line.series, told) | _drawn(line) for line in found]
        document = {"from": _time(span.start), "to": _time(span.stop), "series": series}
        return Response(document | _completeness(lacks))


class ExportView(ListsView):
    """Readings as a file."""

    http_method_names = ("get",)
    parameters_class = parameters.ExportParameters
    # Refusals are JSON whatever the client asks for.
    content_negotiation_class = AnyAccepted
    renderer_classes = (JSONRenderer,)

    @extend_schema(
        operation_id="readings_export",
        parameters=[parameters.ExportParameters],
        responses={
            (200, "text/csv"): OpenApiTypes.STR,
            (200, "application/x-ndjson"): OpenApiTypes.STR,
            404: ErrorSerializer,
        },
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """All readings of the series as CSV or NDJSON, series after series, each in order of time.

        The transfer is broken off where the file cannot be finished: one that ends as HTTP says is whole. The last
        line of NDJSON says `complete`; what is known to be missing beforehand is in the header `Gwanje-Incomplete`.
        """
        wanted = self.wanted()
        span, chosen = span_of(wanted), choose(wanted)
        lacks = completeness.lacks(
            [device.pk for device in chosen.devices],
            wanted.get("from"),
            span.asked_stop,
            raw_from=span.start,
        )
        form = wanted["format"]
        job = readings.Wanted(
            current_schema(),
            [readings.Exported(one, chosen.device_of(one)) for one in chosen.series],
            wanted.get("from"),
            span.stop,
            form,
            lacks,
        )
        is_async = isinstance(request._request, ASGIRequest)
        content: Any = readings.stream(job, watcher_of(request).may_watch) if is_async else readings.pieces(job)
        kind = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
        answer = StreamingHttpResponse(content, content_type=kind)
        answer["Content-Disposition"] = f'attachment; filename="readings-{span.stop:%Y%m%dT%H%M%SZ}.{form}"'
        if lacks:
            answer["Gwanje-Incomplete"] = ", ".join(lack.code for lack in lacks)
        return answer


class FleetLatestView(ListsView):
    """The newest values of all devices."""

    parameters_class = parameters.FleetLatestParameters
    filters: ClassVar = ("component", "metric", "hardware_model")

    @extend_schema(
        operation_id="latest_list",
        parameters=[parameters.FleetLatestParameters],
        responses={200: shapes.FleetLatestPageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """The newest value of each metric of all devices, or of those that the parameters name.

        By device, component and metric. A page may hold fewer results than `limit` although there is a next.
        """
        wanted = self.wanted()
        devices = [device.pk for device in devices_of(wanted["device"])] if "device" in wanted else None
        narrowed = {name: wanted.get(name) for name in self.filters}
        scope = f"latest:{devices}:{narrowed}"
        after = cursors.decode(scope, wanted["cursor"]) if "cursor" in wanted else None
        page = fleet_latest.latest(devices=devices, after=after, limit=wanted["limit"], **narrowed)
        following = None
        if page.end is not None:
            cursor = cursors.encode(scope, list(page.end))
            following = replace_query_param(request.build_absolute_uri(), "cursor", cursor)
        lacks = completeness.lacks(devices, None, timezone.now()) + ([completeness.more()] if following else [])
        results = shapes.FleetLatestSerializer(page.values, many=True).data
        return Response({"results": results, "next": following} | _completeness(lacks))


class _Rows:
    """The results of an answer."""

    def __init__(self, wanted: dict[str, Any], edges: Sequence[datetime.datetime]) -> None:
        self._names = wanted.get("aggregate") or parameters.AGGREGATES
        self._fill: str = wanted["fill"]
        self._starts = [edge.astimezone(wanted["timezone"]).isoformat() for edge in edges[:-1]]

    def of(self, one: Series, buckets: Buckets) -> list[dict[str, Any]]:
        """The results of a series, in order of time."""
        names = [name for name in self._names if one.value_type != Text or name in ("count", "last")]
        own, rows, last = buckets[one.pk], [], None
        for number in range(len(self._starts)) if self._fill != "none" else own:
            bucket = own.get(number)
            if bucket is not None:
                last = _of_type(bucket.last, one.value_type)
                values = _values(bucket, one.value_type)
            else:
                values = _nothing(last if self._fill == "previous" else None, one.value_type)
            rows.append({"start": self._starts[number]} | {name: values[name] for name in names})
        return rows


def _values(bucket: Bucket, kind: str) -> dict[str, Any]:
    return {
        "count": bucket.count,
        "min": _of_type(bucket.min, kind),
        "max": _of_type(bucket.max, kind),
        "avg": bucket.avg,
        "sum": bucket.sum,
        "last": _of_type(bucket.last, kind),
    }


def _nothing(last: Any, kind: str) -> dict[str, Any]:
    """An interval without readings; `last` is what is carried on from before, or None."""
    mean = None if last is None or kind == Text else float(last)
    return {"count": 0, "min": last, "max": last, "avg": mean, "sum": None, "last": last}


def _of_type(value: float | str | None, kind: str) -> float | bool | str | None:
    return bool(value) if kind == Boolean and value is not None else value


def _edges(wanted: dict[str, Any], span: Span, count: int) -> list[datetime.datetime]:
    """Where the intervals begin. Raises ValidationError where they are more than one answer holds."""
    most = MOST_RESULTS // max(count, 1)
    try:
        return calendar_intervals.edges(wanted["interval"], wanted["timezone"], span.start, span.stop, most)
    except calendar_intervals.TooManyBuckets:
        values = {
            "interval": wanted["interval"],
            "most": most,
            "series": count,
            "longer": calendar_intervals.longer(span.stop - span.start, most),
        }
        refusal = _(
            "The range holds more than %(most)d intervals of %(interval)s, which is what an answer of %(series)d series"
            " may have: ask for a longer interval (%(longer)s), a shorter range, or fewer series."
        )
        raise ValidationError({"interval": refusal % values}) from None


class _effort:  # noqa: N801 (used like a function)
    """`bounded()`, with a refusal that names what to change."""

    def __init__(self, attr: str) -> None:
        self._attr, self._inner = attr, bounded()

    def __enter__(self) -> None:
        self._inner.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        try:
            return self._inner.__exit__(*error)
        except TooMuchWork:
            refusal = _("The range holds too many readings to work through in time: ask for a shorter one.")
            raise ValidationError({self._attr: refusal}) from None


def _with_readings(series: Iterable[Series], found: set[int]) -> list[Series]:
    """The series with readings in the range, and of a metric that has none the one of its newest unit."""
    newest: dict[tuple[int, str, str], Series] = {}
    held = set()
    for one in series:
        key = one.device_id, one.component, one.metric
        newest[key] = one
        if one.pk in found:
            held.add(key)
    bare = {one.pk for key, one in newest.items() if key not in held}
    return [one for one in series if one.pk in found or one.pk in bare]


def _described(chosen: Chosen, one: Series, told: Iterable[Series]) -> dict[str, Any]:
    key = one.device_id, one.component, one.metric
    others = [o for o in told if o.pk != one.pk and (o.device_id, o.component, o.metric) == key]
    return {
        "device": chosen.device_of(one),
        "component": one.component,
        "metric": one.metric,
        "unit": one.unit or None,
        "value_type": one.value_type,
        "other_units": [other.unit or None for other in others],
    }


def _drawn(line: charts.Line) -> dict[str, Any]:
    return {
        "points": [{"time": _unix(at), "value": value} for at, value in line.points],
        "gaps": [[_unix(earlier), _unix(later)] for earlier, later in line.gaps],
        "resolution_seconds": line.resolution,
    }


def _unix(at: float) -> str:
    return _time(datetime.datetime.fromtimestamp(at, datetime.UTC))


def _completeness(lacks: Sequence[Lack]) -> dict[str, Any]:
    return {"complete": not lacks, "incomplete": [asdict(lack) for lack in lacks]}
