"""Aggregates of groups of series."""

from rest_framework import serializers

from devices.models import Metric
from tenants.api.serializers.base import Timestamp

from .base import CompleteSerializer, UnitField, ValueField


class PercentileSerializer(serializers.Serializer):
    percent = serializers.FloatField()
    value = serializers.FloatField(allow_null=True, help_text="Null without readings, and of booleans.")


class GroupAggregateSerializer(serializers.Serializer):
    """The readings of one interval of a group."""

    starts_at = serializers.DateTimeField(
        help_text="Beginning of the interval, with the offset of the requested time zone."
    )
    count = serializers.IntegerField(required=False)
    min = ValueField(required=False, allow_null=True)
    max = ValueField(required=False, allow_null=True)
    avg = serializers.FloatField(required=False, allow_null=True, help_text="Of booleans the share of true.")
    sum = serializers.FloatField(required=False, allow_null=True)
    delta = serializers.FloatField(required=False, allow_null=True, help_text="The increase of all counters.")
    rate = serializers.FloatField(required=False, allow_null=True, help_text="The increase of all counters a second.")
    integral = serializers.FloatField(
        required=False, allow_null=True, help_text="The sum of the integrals over time in seconds."
    )
    percentiles = PercentileSerializer(many=True, required=False)


class GroupKeySerializer(serializers.Serializer):
    """The members of `group_by`; null for series that have none."""

    device = serializers.UUIDField(required=False)
    place = serializers.CharField(required=False, allow_null=True)
    tag = serializers.CharField(required=False, allow_null=True)
    hardware_model = serializers.IntegerField(required=False, allow_null=True)
    component = serializers.CharField(required=False)
    component_type = serializers.CharField(required=False, allow_null=True)


class AggregatedGroupSerializer(serializers.Serializer):
    """The series of one metric that have the members of `group` in common."""

    metric = serializers.CharField()
    value_type = serializers.ChoiceField(choices=Metric.ValueType.choices)
    unit = UnitField()
    group = GroupKeySerializer()
    device_count = serializers.IntegerField(help_text="Number of devices with such a series, with readings or without.")
    results = GroupAggregateSerializer(many=True)


SOURCES = ("days", "hours", "readings")


def _sources(help_text: str) -> serializers.ListField:
    return serializers.ListField(child=serializers.ChoiceField(choices=SOURCES), help_text=help_text)


class SourcesSerializer(serializers.Serializer):
    """The sources of the values: daily and hourly rollups, or readings; empty for values that were not requested."""

    aggregates = _sources("Of `count`, `min`, `max`, `avg` and `sum`.")
    percentiles = _sources("Of the percentiles.")
    interpolated = _sources("Of `delta`, `rate` and `integral`.")


class GroupAggregatesSerializer(CompleteSerializer):
    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        return {"from": Timestamp(), "to": Timestamp()} | super().get_fields()

    interval = serializers.CharField(allow_null=True, help_text="Null: the whole range.")
    timezone = serializers.CharField()
    groups = AggregatedGroupSerializer(many=True)
    sources = SourcesSerializer()
