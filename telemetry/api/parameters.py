"""The query parameters of the lists over time."""

from typing import Any
from zoneinfo import ZoneInfo

from django.utils.translation import gettext as _
from rest_framework import serializers

from telemetry.models import Reason
from telemetry.services.queries import calendar_intervals
from tenants.api.fields import Timestamp, time_zone
from tenants.api.pagination import MAX_LIMIT

MOST_DEVICES = 50
MOST_NAMES = 50
MOST_POINTS = 5000
AGGREGATES = ("count", "min", "max", "avg", "sum", "last")


class RangeParameters(serializers.Serializer):
    """`from` inclusive, `to` exclusive, `limit`, `cursor`."""

    limit = serializers.IntegerField(
        min_value=1, max_value=MAX_LIMIT, default=100, help_text=f"How many results, 1 to {MAX_LIMIT}."
    )
    cursor = serializers.CharField(required=False, help_text="From `next` of the page before; not made by hand.")

    def get_fields(self) -> dict[str, serializers.Field]:
        # "from" is no name that a class body can hold.
        return super().get_fields() | {
            "from": Timestamp(required=False, help_text="Not before this time (ISO 8601 with an offset)."),
            "to": Timestamp(required=False, help_text="Before this time (ISO 8601 with an offset)."),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "from" in attrs and "to" in attrs and attrs["from"] >= attrs["to"]:
            raise serializers.ValidationError(
                {"from": _("'from' is before 'to': the range as given holds no instant.")}
            )
        return attrs


class ReadingsParameters(RangeParameters):
    device = serializers.UUIDField(help_text="A device's UUID.")
    component = serializers.CharField(help_text="A component's key, for example dht22.")
    metric = serializers.CharField(help_text="A metric's key, for example temperature.")
    limit = serializers.IntegerField(
        min_value=1, max_value=MAX_LIMIT, default=MAX_LIMIT, help_text=f"How many results, 1 to {MAX_LIMIT}."
    )


class MessagesParameters(RangeParameters):
    device = serializers.UUIDField(help_text="A device's UUID.")


class QuarantineParameters(RangeParameters):
    device = serializers.UUIDField(required=False, help_text="A device's UUID.")
    reason = serializers.ChoiceField(choices=Reason.choices, required=False)
    topic = serializers.CharField(required=False, max_length=1000, help_text="A part of the topic.")


class ChoiceParameters(serializers.Serializer):
    """Which series are meant: all of the devices', or those of the components and metrics that are named."""

    device = serializers.ListField(
        child=serializers.UUIDField(),
        min_length=1,
        max_length=MOST_DEVICES,
        help_text="A device's UUID; may be given several times.",
    )
    component = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        max_length=MOST_NAMES,
        help_text="A component's key, for example dht22; may be given several times. All unless given.",
    )
    metric = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        max_length=MOST_NAMES,
        help_text="A metric's key, for example temperature; may be given several times. All unless given.",
    )


class SpanParameters(ChoiceParameters):
    """`from` inclusive, `to` exclusive; now unless `to` is given."""

    needs_from = True

    def get_fields(self) -> dict[str, serializers.Field]:
        # "from" is no name that a class body can hold.
        return super().get_fields() | {
            "from": Timestamp(required=self.needs_from, help_text="Not before this time (ISO 8601 with an offset)."),
            "to": Timestamp(
                required=False, help_text="Before this time (ISO 8601 with an offset); now unless it is given."
            ),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "from" in attrs and "to" in attrs and attrs["from"] >= attrs["to"]:
            raise serializers.ValidationError(
                {"from": _("'from' is before 'to': the range as given holds no instant.")}
            )
        return attrs


class AggregatesParameters(SpanParameters):
    interval = serializers.CharField(help_text="1m, 5m, 15m, 1h, 6h, 1d, 1w, 1mo, or another number of them.")
    timezone = serializers.CharField(
        default="UTC", help_text="Whose clocks and calendar the intervals are of, for example Asia/Seoul."
    )
    aggregate = serializers.ListField(
        child=serializers.ChoiceField(choices=AGGREGATES),
        required=False,
        help_text="Which values each result holds; may be given several times. All unless given.",
    )
    fill = serializers.ChoiceField(
        choices=("none", "null", "previous"),
        default="none",
        help_text="Intervals without readings: left out, with null, or with the last value before them in the range.",
    )

    def validate_interval(self, value: str) -> calendar_intervals.Interval:
        try:
            return calendar_intervals.parse(value)
        except calendar_intervals.BadInterval as error:
            values = {"value": value, "why": error}
            raise serializers.ValidationError(_("%(value)r is no interval: %(why)s.") % values) from error

    def validate_timezone(self, value: str) -> ZoneInfo:
        return time_zone(value)


class ChartParameters(SpanParameters):
    max_points = serializers.IntegerField(
        min_value=3, max_value=MOST_POINTS, default=500, help_text=f"How many points a line has, 3 to {MOST_POINTS}."
    )


class ExportParameters(SpanParameters):
    needs_from = False
    format = serializers.ChoiceField(choices=("csv", "ndjson"), default="csv")


class FleetLatestParameters(serializers.Serializer):
    device = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        max_length=MOST_DEVICES,
        help_text="A device's UUID; may be given several times. All unless given.",
    )
    component = serializers.CharField(required=False, help_text="A component's key, for example dht22.")
    metric = serializers.CharField(required=False, help_text="A metric's key, for example temperature.")
    hardware_model = serializers.IntegerField(
        required=False, min_value=1, max_value=2**63 - 1, help_text="A hardware model's id."
    )
    limit = serializers.IntegerField(
        min_value=1, max_value=MAX_LIMIT, default=100, help_text=f"How many results, 1 to {MAX_LIMIT}."
    )
    cursor = serializers.CharField(required=False, help_text="From `next` of the page before; not made by hand.")
