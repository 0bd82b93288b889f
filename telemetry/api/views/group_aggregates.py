"""Aggregates over the readings of groups of series."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import DataError
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from devices.models import Metric
from telemetry.api import parameters
from telemetry.api.aggregate_rows import line_values, requested_max_gap, wants_interpolation
from telemetry.api.serializers import group_aggregates as shapes
from telemetry.api.series_groups import SeriesGroup, group_series
from telemetry.api.series_selection import TimeRange, query_budget, requested_edges, time_range
from telemetry.api.unit_conversion import UnitConverter, UnitTarget, unit_converter
from telemetry.models import Series
from telemetry.services.queries import completeness
from telemetry.services.queries.aggregates import AggregateBucket, ReadPlan
from telemetry.services.queries.group_aggregates import (
    GroupMember,
    group_aggregates,
    group_interpolated,
    group_percentiles,
    merge_buckets,
    merge_interpolated,
)
from telemetry.services.queries.interpolation import InterpolatedAggregate
from tenants.api.errors import ErrorSerializer
from tenants.api.serializers.base import time_text
from tenants.api.views.base import DeviceScope, ParametersView
from tenants.infrastructure.error_codes import ErrorCode

_Value = TypeVar("_Value", AggregateBucket, InterpolatedAggregate)
Number, Boolean = Metric.ValueType.NUMBER, Metric.ValueType.BOOLEAN


class GroupAggregatesView(ParametersView):
    """Aggregates across devices."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.GroupAggregatesParameters

    @extend_schema(
        operation_id="readings_group_aggregates",
        parameters=[parameters.GroupAggregatesParameters],
        responses={200: shapes.GroupAggregatesSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return count, minimum, maximum, mean, sum and percentiles of the readings of groups of series.

        A group has the readings of one metric of all selected devices, or of those with one place, tag, hardware
        model, component or component type: each reading counts once, whatever device it is of. All readings of a group
        must have one unit, or be convertible to `unit`. `delta`, `rate` and `integral` are the sums of those of the
        series. They and percentiles are computed from the readings themselves, the other values from rollups and
        readings; both are exact.
        """
        wanted = self.valid_parameters()
        requested, converter = time_range(wanted), unit_converter(wanted)
        grouped = group_series(request, wanted)
        edges = _edges(wanted, requested, len(grouped.groups))
        query = _GroupQuery(grouped.groups, edges, requested)
        percents = list(dict.fromkeys(wanted.get("percentile", ())))
        with query_budget("from"):
            found = query.read(converter, wanted)
            percentiles = query.read_percentiles(percents)
        rolled = [spans[0][0] for spans in (query.plan.days, query.plan.hours) if spans]
        is_raw = bool(percents) or wants_interpolation(wanted)
        raw = [requested.start] if is_raw else [span[0] for span in query.plan.raw[:1]]
        warnings = completeness.partial_reasons(
            grouped.device_ids,
            requested.start,
            requested.requested_stop,
            raw_from=min(raw, default=None),
            rolled_from=min(rolled, default=None),
        )
        rows = _GroupRows(wanted, edges, percents)
        groups = [
            {
                "metric": group.metric,
                "value_type": group.value_type,
                "unit": query.units[number] or None,
                "group": group.key,
                "device_count": group.device_count,
                "results": rows.results_of(group, found[number], percentiles.get(number, {})),
            }
            for number, group in enumerate(grouped.groups)
        ]
        document = {
            "from": time_text(requested.start),
            "to": time_text(requested.stop),
            "interval": str(wanted["interval"]) if "interval" in wanted else None,
            "timezone": str(wanted["timezone"]),
            "groups": groups,
            "sources": {
                "aggregates": _sources(query.plan),
                "percentiles": ["readings"] if percents else [],
                "interpolated": ["readings"] if wants_interpolation(wanted) else [],
            },
        }
        return Response(document | completeness.completeness_data(warnings))


@dataclass(frozen=True, slots=True)
class _GroupValues:
    """The values of a group by the number of the interval."""

    buckets: dict[int, AggregateBucket]
    lines: dict[int, InterpolatedAggregate]


def _percentile_member(number: int, one: Series, target: UnitTarget, *, is_converted: bool) -> GroupMember:
    factor, offset = (float(target.factor), float(target.offset)) if is_converted else (1.0, 0.0)
    return GroupMember(number, one, factor, offset)


class _GroupQuery:
    """The aggregates of groups: read by measured unit, then converted and merged."""

    def __init__(self, groups: Sequence[SeriesGroup], edges: Sequence[datetime.datetime], requested: TimeRange) -> None:
        self.groups = groups
        self.plan = ReadPlan()
        # The unit of each group's numbers.
        self.units: list[str] = [max(group.series, key=lambda one: one.pk).unit for group in groups]
        self._edges = edges
        self._range = requested
        # (group, measured unit) → target, of units with readings in the range.
        self._targets: dict[tuple[int, str], UnitTarget] = {}

    def read(self, converter: UnitConverter | None, wanted: dict[str, Any]) -> list[_GroupValues]:
        """Return the values of each group. Raises ValidationError for units that do not agree."""
        parts: list[tuple[int, str]] = []
        members = []
        for number, group in enumerate(self.groups):
            for unit in sorted({one.unit for one in group.series}):
                members += [GroupMember(len(parts), one) for one in group.series if one.unit == unit]
                parts.append((number, unit))
        span = (self._edges, self._range.start, self._range.stop)
        answer, lines = group_aggregates(members, *span), {}
        self.plan = answer.plan
        if wants_interpolation(wanted):
            lines = group_interpolated(members, *span, max_gap=requested_max_gap(wanted))
        filled = {part: index for index, part in enumerate(parts) if answer.buckets[index] or lines.get(index)}
        for number, group in enumerate(self.groups):
            self._agree(number, group, [unit for owner, unit in filled if owner == number], converter)
        return [
            _GroupValues(
                self._merged(number, filled, answer.buckets, UnitTarget.bucket, merge_buckets),
                self._merged(number, filled, lines, UnitTarget.line, merge_interpolated),
            )
            for number in range(len(self.groups))
        ]

    def _merged(
        self,
        number: int,
        filled: dict[tuple[int, str], int],
        values: Mapping[int, Mapping[int, _Value]],
        convert: Callable[[UnitTarget, _Value], _Value],
        merge: Callable[[list[_Value]], _Value],
    ) -> dict[int, _Value]:
        """Return the values of a group by interval, of all its measured units together."""
        found: dict[int, list[_Value]] = {}
        for part, index in filled.items():
            if part[0] == number:
                for interval, value in values.get(index, {}).items():
                    found.setdefault(interval, []).append(convert(self._targets[part], value))
        return {interval: merge(found[interval]) for interval in sorted(found)}

    def read_percentiles(self, percents: Sequence[float]) -> dict[int, dict[int, list[float]]]:
        """Return group → interval → percentiles, of groups of numbers. Raises ValidationError."""
        members, later = [], {}
        for number, group in enumerate(self.groups):
            targets = {unit: target for (owner, unit), target in self._targets.items() if owner == number}
            if len(targets) == 1:  # they are converted exactly afterwards; a conversion keeps the order of numbers
                (later[number],) = targets.values()
            members += [
                _percentile_member(number, one, target, is_converted=number not in later)
                for one in group.series
                if group.value_type == Number and (target := targets.get(one.unit))
            ]
        try:
            found = group_percentiles(members, self._edges, self._range.start, self._range.stop, percents)
        except DataError:
            text = _("A value is too large to be converted.")
            raise ValidationError({"unit": ErrorDetail(text, ErrorCode.OUT_OF_RANGE)}) from None
        return {
            number: {
                interval: [later[number].value(one) for one in values] if number in later else values
                for interval, values in intervals.items()
            }
            for number, intervals in found.items()
        }

    def _agree(self, number: int, group: SeriesGroup, measured: Sequence[str], converter: UnitConverter | None) -> None:
        """Note the group's unit and the targets of its measured units."""
        is_converted = converter is not None and group.value_type == Number
        for unit in measured:
            self._targets[number, unit] = (
                converter.target(group.metric, unit) if converter and is_converted else UnitTarget(unit)
            )
        units = sorted({self._targets[number, unit].unit for unit in measured})
        if len(units) > 1:
            values = {"metric": group.metric, "units": ", ".join(unit or _("none") for unit in units)}
            text = _("%(metric)r has readings of several units in one group: %(units)s. Convert them by 'unit'.")
            raise ValidationError({"unit": ErrorDetail(text % values, ErrorCode.INCOMPATIBLE_UNITS)})
        if units:
            self.units[number] = units[0]
        elif converter and is_converted and (target := converter.find(self.units[number])):
            self.units[number] = target.unit


class _GroupRows:
    """The results of groups."""

    def __init__(self, wanted: dict[str, Any], edges: Sequence[datetime.datetime], percents: Sequence[float]) -> None:
        self._names = wanted.get("aggregate") or parameters.GROUP_AGGREGATES
        self._is_filled: bool = wanted["fill"] == "null"
        self._percents = percents
        self._starts = [edge.astimezone(wanted["timezone"]).isoformat() for edge in edges[:-1]]

    def results_of(
        self, group: SeriesGroup, found: _GroupValues, percentiles: dict[int, list[float]]
    ) -> list[dict[str, Any]]:
        """Return the results of a group in order of time."""
        rows = []
        for number in range(len(self._starts)) if self._is_filled else sorted({*found.buckets, *found.lines}):
            values = _values(found.buckets.get(number), group.value_type)
            if number in found.lines:
                values |= line_values(found.lines[number])
            row = {"starts_at": self._starts[number]} | {name: values.get(name) for name in self._names}
            if self._percents:
                nothing: list[float | None] = [None] * len(self._percents)
                pairs = zip(self._percents, percentiles.get(number) or nothing, strict=True)
                row["percentiles"] = [{"percent": percent, "value": value} for percent, value in pairs]
            rows.append(row)
        return rows


def _values(bucket: AggregateBucket | None, kind: str) -> dict[str, Any]:
    if bucket is None:
        return {"count": 0, "min": None, "max": None, "avg": None, "sum": None}
    low, high = (bool(value) if kind == Boolean else value for value in (bucket.min, bucket.max))
    return {"count": bucket.count, "min": low, "max": high, "avg": bucket.avg, "sum": bucket.sum}


def _sources(plan: ReadPlan) -> list[str]:
    named = {"days": plan.days, "hours": plan.hours, "readings": plan.raw}
    return [name for name, spans in named.items() if spans]


def _edges(wanted: dict[str, Any], requested: TimeRange, groups: int) -> list[datetime.datetime]:
    if "interval" not in wanted:
        return [requested.start, requested.stop]
    return requested_edges(
        wanted,
        requested,
        groups,
        _(
            "The range contains more than %(most)d intervals of %(interval)s, the most for %(count)d groups."
            " Use a longer interval (%(longer)s), a shorter range or fewer groups."
        ),
    )
