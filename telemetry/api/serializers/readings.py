"""Readings, latest values, aggregates and charts."""

from rest_framework import serializers

from devices.models import Metric
from tenants.api.serializers.base import Timestamp

from .base import CompleteSerializer, UnitField, ValueField


class LatestSerializer(serializers.Serializer):
    """The newest value of a component's metric."""

    component = serializers.CharField()
    metric = serializers.CharField()
    value = ValueField()
    unit = UnitField()
    time = Timestamp()


class LatestPageSerializer(serializers.Serializer):
    results = LatestSerializer(many=True)


class ReadingSerializer(serializers.Serializer):
    """A value, its unit, and when it was measured."""

    time = Timestamp()
    value = ValueField()
    unit = UnitField()


class ReadingsPageSerializer(CompleteSerializer):
    results = ReadingSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of the next page; null on the last.")


class SeriesReadingSerializer(ReadingSerializer):
    """A value with its device, component and metric."""

    device = serializers.UUIDField()
    component = serializers.CharField()
    metric = serializers.CharField()


class FleetLatestSerializer(LatestSerializer):
    """The newest value of a metric of a device's component."""

    device = serializers.UUIDField()


class FleetLatestPageSerializer(CompleteSerializer):
    results = FleetLatestSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of the next page; null on the last.")


class SeriesReadingsPageSerializer(CompleteSerializer):
    results = SeriesReadingSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of the next page; null on the last.")


class SeriesSerializer(serializers.Serializer):
    """A metric of a component in one unit."""

    device = serializers.UUIDField()
    component = serializers.CharField()
    metric = serializers.CharField()
    unit = UnitField()
    value_type = serializers.ChoiceField(choices=Metric.ValueType.choices)
    other_units = serializers.ListField(
        child=UnitField(), help_text="The metric was measured in these too: each has an entry of its own."
    )


class AggregateSerializer(serializers.Serializer):
    """The readings of one interval. Of texts there are only `count` and `last`."""

    starts_at = serializers.DateTimeField(
        help_text="Beginning of the interval, with the offset of the requested time zone."
    )
    count = serializers.IntegerField(required=False)
    min = ValueField(required=False, allow_null=True)
    max = ValueField(required=False, allow_null=True)
    avg = serializers.FloatField(required=False, allow_null=True, help_text="Of booleans the share of true.")
    sum = serializers.FloatField(required=False, allow_null=True)
    last = ValueField(required=False, allow_null=True)
    delta = serializers.FloatField(required=False, allow_null=True, help_text="The increase of a counter.")
    rate = serializers.FloatField(required=False, allow_null=True, help_text="The increase of a counter a second.")
    integral = serializers.FloatField(
        required=False,
        allow_null=True,
        help_text="The integral over time in seconds. Of booleans the seconds of true.",
    )


class AggregatedSeriesSerializer(SeriesSerializer):
    results = AggregateSerializer(many=True)


class AggregatesSerializer(CompleteSerializer):
    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        return {"from": Timestamp(), "to": Timestamp()} | super().get_fields()

    interval = serializers.CharField()
    timezone = serializers.CharField()
    series = AggregatedSeriesSerializer(many=True)


class PointSerializer(serializers.Serializer):
    time = Timestamp()
    value = serializers.FloatField(help_text="Of booleans 0 or 1.")


class ChartSeriesSerializer(SeriesSerializer):
    points = PointSerializer(many=True)
    silences = serializers.ListField(
        child=serializers.ListField(child=Timestamp(), min_length=2, max_length=2),
        help_text="Silences that are unusual for the series: [last before, first after].",
    )
    resolution_seconds = serializers.FloatField(
        help_text="By how much a point's time may be off: 0 where the points are readings."
    )


class ChartSerializer(CompleteSerializer):
    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        return {"from": Timestamp(), "to": Timestamp()} | super().get_fields()

    series = ChartSeriesSerializer(many=True)
