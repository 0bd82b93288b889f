"""What the answers of telemetry hold."""

import base64
import codecs
from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.models import Metric
from telemetry.models import IngestTotals, LimitHit, Message, Quarantined
from telemetry.services.queries.completeness import Code
from tenants.api.fields import Timestamp
from tenants.services.limits import LimitName


@extend_schema_field({"oneOf": [{"type": "number"}, {"type": "boolean"}, {"type": "string"}]})
class ValueField(serializers.Field):
    """A number, a boolean or a text, as it was measured."""

    def to_representation(self, value: Any) -> Any:
        return value


class UnitField(serializers.CharField):
    """A unit's symbol as it was when the value was measured, or null for none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_null=True, **options)

    def to_representation(self, value: Any) -> Any:
        return value or None


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


class LackSerializer(serializers.Serializer):
    """Why something may be missing."""

    code = serializers.ChoiceField(choices=[code.value for code in Code])
    detail = serializers.CharField(help_text="The same in words.")


class CompleteSerializer(serializers.Serializer):
    """Whether the answer holds all that there is, as far as the platform knows."""

    complete = serializers.BooleanField()
    incomplete = LackSerializer(many=True, help_text="Why not; empty where it is complete.")


class ReadingsPageSerializer(CompleteSerializer):
    results = ReadingSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of the next page; null on the last.")


class FleetLatestSerializer(LatestSerializer):
    """The newest value of a metric of a device's component."""

    device = serializers.UUIDField()


class FleetLatestPageSerializer(CompleteSerializer):
    results = FleetLatestSerializer(many=True)
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

    start = serializers.DateTimeField(help_text="When it begins, with the offset of the time zone that was asked for.")
    count = serializers.IntegerField(required=False)
    min = ValueField(required=False, allow_null=True)
    max = ValueField(required=False, allow_null=True)
    avg = serializers.FloatField(required=False, allow_null=True, help_text="Of booleans the share of true.")
    sum = serializers.FloatField(required=False, allow_null=True)
    last = ValueField(required=False, allow_null=True)


class AggregatedSeriesSerializer(SeriesSerializer):
    results = AggregateSerializer(many=True)


class AggregatesSerializer(CompleteSerializer):
    def get_fields(self) -> dict[str, serializers.Field]:
        return {"from": Timestamp(), "to": Timestamp()} | super().get_fields()

    interval = serializers.CharField()
    timezone = serializers.CharField()
    series = AggregatedSeriesSerializer(many=True)


class PointSerializer(serializers.Serializer):
    time = Timestamp()
    value = serializers.FloatField(help_text="Of booleans 0 or 1.")


class ChartSeriesSerializer(SeriesSerializer):
    points = PointSerializer(many=True)
    gaps = serializers.ListField(
        child=serializers.ListField(child=Timestamp(), min_length=2, max_length=2),
        help_text="Silences that are unusual for the series: [last before, first after].",
    )
    resolution_seconds = serializers.FloatField(
        help_text="By how much a point's time may be off: 0 where the points are readings."
    )


class ChartSerializer(CompleteSerializer):
    def get_fields(self) -> dict[str, serializers.Field]:
        return {"from": Timestamp(), "to": Timestamp()} | super().get_fields()

    series = ChartSeriesSerializer(many=True)


class MessageSerializer(serializers.ModelSerializer[Message]):
    """A message as it was received."""

    device = serializers.UUIDField(source="device.uuid", read_only=True)
    time = Timestamp(read_only=True)
    received_at = Timestamp(read_only=True)
    payload = serializers.SerializerMethodField()
    payload_encoding = serializers.SerializerMethodField()

    class Meta:
        model = Message
        fields: ClassVar = [
            "device",
            "time",
            "received_at",
            "topic",
            "payload",
            "payload_encoding",
            "signature",
            "key_version",
            "late",
        ]
        read_only_fields = fields

    def get_payload(self, row: Message) -> str:
        return payload_text(bytes(row.payload))[0]

    @extend_schema_field(serializers.ChoiceField(choices=["utf-8", "base64"]))
    def get_payload_encoding(self, row: Message) -> str:
        return payload_text(bytes(row.payload))[1]


class MessagesPageSerializer(serializers.Serializer):
    results = MessageSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of the next page; null on the last.")


class QuarantinedSerializer(serializers.ModelSerializer[Quarantined]):
    """A message that was refused, as it was sent. The same one again raises `times` and `received_at`."""

    device = serializers.UUIDField(source="device.uuid", read_only=True, allow_null=True, default=None)
    received_at = Timestamp(source="last_received_at", read_only=True)
    first_received_at = Timestamp(read_only=True)
    payload = serializers.SerializerMethodField(help_text="As it was sent; of a large one the first 64 KiB.")
    payload_encoding = serializers.SerializerMethodField()
    payload_size = serializers.IntegerField(read_only=True, help_text="How many bytes were sent.")

    class Meta:
        model = Quarantined
        fields: ClassVar = [
            "id",
            "reason",
            "detail",
            "topic",
            "device",
            "received_at",
            "first_received_at",
            "times",
            "payload",
            "payload_encoding",
            "payload_size",
        ]
        read_only_fields = fields

    @extend_schema_field(OpenApiTypes.STR)
    def get_payload(self, row: Any) -> str:
        return payload_text(bytes(row.payload_head), cut=row.payload_size > len(row.payload_head))[0]

    @extend_schema_field(serializers.ChoiceField(choices=["utf-8", "base64"]))
    def get_payload_encoding(self, row: Any) -> str:
        return payload_text(bytes(row.payload_head), cut=row.payload_size > len(row.payload_head))[1]


class QuarantinePageSerializer(serializers.Serializer):
    results = QuarantinedSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of the next page; null on the last.")


class TotalsSerializer(serializers.ModelSerializer[IngestTotals]):
    """What became of a day's messages: received = stored + duplicates + quarantined + rate_limited."""

    class Meta:
        model = IngestTotals
        fields: ClassVar = ["day", "received", "stored", "duplicates", "quarantined", "rate_limited"]


class LimitSerializer(serializers.Serializer):
    """A limit of the tenant, how much of it is used, and how many messages it refused today (UTC)."""

    name = serializers.ChoiceField(choices=[(name.value, name.value) for name in LimitName])
    value = serializers.FloatField(allow_null=True, help_text="Null: no limit.")
    burst = serializers.FloatField(allow_null=True, help_text="Of a rate: messages at once, after a silence.")
    source = serializers.ChoiceField(  # type: ignore[assignment]  # a member, not the field's own source
        choices=["tenant", "plan", "default"], help_text="Who says so."
    )
    used = serializers.FloatField(
        allow_null=True, help_text="Of the tenant's rates: messages a second, lately. Of the quota: messages today."
    )
    refused_today = serializers.IntegerField()
    resets_at = Timestamp(allow_null=True, help_text="When the quota begins anew.")


class LimitsPageSerializer(serializers.Serializer):
    results = LimitSerializer(many=True)


class LimitHitSerializer(serializers.ModelSerializer[LimitHit]):
    """How many messages a limit refused on a day (UTC); with the device where the limit is the device's own."""

    name = serializers.CharField(source="limit", read_only=True)
    device = serializers.UUIDField(source="device.uuid", read_only=True, allow_null=True, default=None)

    class Meta:
        model = LimitHit
        fields: ClassVar = ["day", "name", "device", "times"]


def payload_text(payload: bytes, *, cut: bool = False) -> tuple[str, str]:
    """A payload as JSON can hold it, and how: ("…", "utf-8") where it is UTF-8, else ("…", "base64").

    `cut` says that it is only the beginning, which may end within a character: that one is left out.
    """
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(payload, final=not cut), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(payload).decode(), "base64"
