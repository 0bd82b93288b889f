"""Query parameters of readings, messages and the quarantine."""

from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from devices.domain import tags
from devices.domain.tags import MAX_TAGS
from telemetry.api.device_selection import SELECTING
from telemetry.api.series_groups import GroupBy
from telemetry.models import Reason
from telemetry.services.queries import calendar_intervals
from tenants.api.pagination import MAX_LIMIT
from tenants.api.serializers.base import (
    CursorParameters,
    ExplainedSerializer,
    RangeParameters,
    WholeNumber,
    limit_field,
    time_zone,
)
from tenants.api.serializers.table_formats import NumbersParameters
from tenants.infrastructure.error_codes import ErrorCode

MAX_DEVICES = 50
MAX_NAMES = 50
MAX_POINTS = 5000
MAX_PERCENTILES = 10
MAX_GAP_SECONDS = 10 * 366 * 86400
AGGREGATES = ("count", "min", "max", "avg", "sum", "last")
INTERPOLATED = ("delta", "rate", "integral")
GROUP_AGGREGATES = ("count", "min", "max", "avg", "sum")


class UnitParameters(ExplainedSerializer):
    """The unit of the answer's numbers."""

    unit = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        max_length=MAX_NAMES,
        help_text=(
            "The unit of the numbers in the answer: a symbol or UCUM code. Given several times: of each number the"
            " first to which it can be converted. Unless given: the unit of the measurement."
        ),
    )


class LatestParameters(UnitParameters):
    pass


class ReadingsParameters(RangeParameters, CursorParameters, UnitParameters):
    device = serializers.UUIDField(help_text="A device's UUID.")
    component = serializers.CharField(help_text="A component's key, for example dht22.")
    metric = serializers.CharField(trim_whitespace=False, help_text="A metric's key, for example temperature.")
    limit = limit_field(MAX_LIMIT)


class MessagesParameters(RangeParameters, CursorParameters):
    device = serializers.UUIDField(help_text="A device's UUID.")


class QuarantineParameters(RangeParameters, CursorParameters):
    device = serializers.UUIDField(required=False, help_text="A device's UUID.")
    reason = serializers.ChoiceField(choices=Reason.choices, required=False)
    topic = serializers.CharField(required=False, max_length=1000, help_text="A part of the topic.")


def _names(what: str) -> serializers.ListField:
    return serializers.ListField(
        # The name of an unmapped value can have blanks at its ends.
        child=serializers.CharField(trim_whitespace=False),
        required=False,
        max_length=MAX_NAMES,
        help_text=f"{what}; may be given several times. All unless given.",
    )


class DeviceSelectionParameters(ExplainedSerializer):
    """The devices that all of the parameters select; a request must have one of these unless `selects_all`."""

    selects_all: ClassVar[bool] = True

    device = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        max_length=MAX_DEVICES,
        help_text="A device's UUID; may be given several times.",
    )
    place = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        max_length=MAX_NAMES,
        help_text="A place's key: the devices at it and below it; may be given several times, for any of them.",
    )
    tag = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        max_length=MAX_TAGS,
        help_text="A tag. Given several times: devices with all these tags.",
    )
    hardware_model = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**63 - 1),
        required=False,
        max_length=MAX_NAMES,
        help_text="A hardware model's id; may be given several times, for any of them.",
    )

    def validate_tag(self, value: list[str]) -> list[str]:
        """Return the tags in their normal form. Raises ValidationError."""
        try:
            return tags.normalize(value)
        except ValueError as error:
            raise serializers.ValidationError(str(error), ErrorCode.INVALID_FORMAT) from error

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the parameters together. Raises ValidationError."""
        if not self.selects_all and not any(name in attrs for name in SELECTING):
            text = _("'device' is required, or 'place', 'tag' or 'hardware_model'.")
            raise serializers.ValidationError({"device": ErrorDetail(text, ErrorCode.REQUIRED)})
        valid: dict[str, Any] = super().validate(attrs)
        return valid


class SeriesParameters(DeviceSelectionParameters):
    """The series of the devices: all, or those of the components, component types and metrics that are named."""

    component = _names("A component's key, for example dht22")
    component_type = _names("A component type's key, for example dht22")
    metric = _names("A metric's key, for example temperature")


class SeriesRangeParameters(RangeParameters, SeriesParameters):
    """`from` inclusive, `to` exclusive; now unless `to` is given."""

    selects_all = False
    from_required = True
    to_help = "Before this time (ISO 8601 with an offset); now unless it is given."


class SeriesReadingsParameters(RangeParameters, CursorParameters, UnitParameters, SeriesParameters):
    limit = limit_field(MAX_LIMIT)


@extend_schema_field({"type": "string", "pattern": calendar_intervals.PATTERN})
class IntervalField(serializers.CharField):
    """A calendar interval such as 15m or 1mo."""


class IntervalParameters(serializers.Serializer):
    """Intervals by the clocks of a time zone."""

    interval = IntervalField(help_text="1m, 5m, 15m, 1h, 6h, 1d, 1w, 1mo, or another number of them.")
    timezone = serializers.CharField(default="UTC", help_text="Time zone of the intervals, for example Asia/Seoul.")

    def validate_interval(self, value: str) -> calendar_intervals.CalendarInterval:
        try:
            return calendar_intervals.parse_interval(value)
        except calendar_intervals.InvalidInterval as error:
            values = {"value": value, "reason": error}
            text = _("%(value)r is not a valid interval; %(reason)s.") % values
            raise serializers.ValidationError(text, ErrorCode.INVALID_FORMAT) from error

    def validate_timezone(self, value: str) -> ZoneInfo:
        """Validate the time zone's name."""
        return time_zone(value)


class GapParameters(serializers.Serializer):
    """The longest time between two readings that is bridged."""

    max_gap_seconds = WholeNumber(
        min_value=1,
        max_value=MAX_GAP_SECONDS,
        required=False,
        help_text=(
            "Readings that are farther apart have no line between them, for `delta`, `rate`, `integral` and"
            " `fill=linear`. No limit unless given."
        ),
    )


class AggregatesParameters(UnitParameters, GapParameters, IntervalParameters, SeriesRangeParameters):
    aggregate = serializers.ListField(
        child=serializers.ChoiceField(choices=(*AGGREGATES, *INTERPOLATED)),
        required=False,
        help_text=(
            "Which values each result holds; may be given several times. All but `delta`, `rate` and `integral` unless"
            " given."
        ),
    )
    fill = serializers.ChoiceField(
        choices=("none", "null", "previous", "linear"),
        default="none",
        help_text=(
            "Intervals without readings: left out, with null, with the last value before them in the range, or on the"
            " line between the intervals before and after."
        ),
    )


@extend_schema_field({"type": "number", "minimum": 0, "maximum": 100})
class PercentField(serializers.FloatField):
    """A number from 0 to 100; its parameter checks it."""


class GroupAggregatesParameters(UnitParameters, GapParameters, IntervalParameters, SeriesRangeParameters):
    selects_all = True

    metric = serializers.ListField(
        child=serializers.CharField(trim_whitespace=False),
        min_length=1,
        max_length=MAX_NAMES,
        help_text="A metric's key, for example temperature; may be given several times, for groups of each.",
    )
    group_by = serializers.ListField(
        child=serializers.ChoiceField(choices=[one.value for one in GroupBy]),
        required=False,
        help_text=(
            "The member by which series are grouped; may be given several times, for all combinations. By `place`:"
            " the devices' own places, or with the parameter `place` these. Unless given: one group for each metric."
        ),
    )
    interval = IntervalField(
        required=False,
        help_text="1m, 5m, 15m, 1h, 6h, 1d, 1w, 1mo, or another number of them. The whole range unless it is given.",
    )
    aggregate = serializers.ListField(
        child=serializers.ChoiceField(choices=(*GROUP_AGGREGATES, *INTERPOLATED)),
        required=False,
        help_text=(
            "Which values each result holds; may be given several times. All but `delta`, `rate` and `integral`, which"
            " are the sums of those of the series, unless given."
        ),
    )
    percentile = serializers.ListField(
        child=PercentField(),
        required=False,
        max_length=MAX_PERCENTILES,
        help_text="A percentile of the readings, 0 to 100, for example 95; may be given several times.",
    )
    fill = serializers.ChoiceField(
        choices=("none", "null"), default="none", help_text="Intervals without readings: left out, or with null."
    )

    def validate_percentile(self, value: list[float]) -> list[float]:
        """Return the percentiles. Raises ValidationError for one beyond 0 to 100."""
        for percent in value:
            if not 0 <= percent <= 100:
                text = _("'percentile' must be a number from 0 to 100, not %(value)s.") % {"value": percent}
                raise serializers.ValidationError(text, ErrorCode.OUT_OF_RANGE)
        return value


class ChartParameters(UnitParameters, SeriesRangeParameters):
    max_points = WholeNumber(
        min_value=3, max_value=MAX_POINTS, default=500, help_text=f"How many points a line has, 3 to {MAX_POINTS}."
    )


class ExportParameters(NumbersParameters, SeriesRangeParameters):
    from_required = False
    format = serializers.ChoiceField(choices=("csv", "ndjson"), default="csv")


class ChangesParameters(CursorParameters):
    """A page of changes: after `cursor`, or from the beginning or the end."""

    start = serializers.ChoiceField(
        choices=("oldest", "newest"),
        default="oldest",
        help_text="Where to begin without a cursor: with the oldest change that is kept, or behind the newest.",
    )


class DeviceListParameters(serializers.Serializer):
    device = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        max_length=MAX_DEVICES,
        help_text="A device's UUID; may be given several times. All unless given.",
    )


class MetricFilterParameters(DeviceListParameters):
    component = serializers.CharField(required=False, help_text="A component's key, for example dht22.")
    metric = serializers.CharField(
        required=False, trim_whitespace=False, help_text="A metric's key, for example temperature."
    )
    hardware_model = serializers.IntegerField(
        required=False, min_value=1, max_value=2**63 - 1, help_text="A hardware model's id."
    )


class FleetLatestParameters(UnitParameters, CursorParameters, SeriesParameters):
    pass


class ReadingChangesParameters(MetricFilterParameters, ChangesParameters):
    limit = limit_field(MAX_LIMIT)


class MessageChangesParameters(DeviceListParameters, ChangesParameters):
    pass
