"""Proposals of metrics from a message, and metrics that are applied."""

from typing import Any, ClassVar

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from devices.api.serializers.metadata import NestedMetricSerializer
from telemetry.api.serializers.readings import UnitField, ValueField
from tenants.api.serializers.base import StrictSerializer


class ProposedMetricSerializer(NestedMetricSerializer):
    """A metric that is proposed, or accepted."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the members together; raises ValidationError."""
        return attrs  # checked all together, beside the metrics that the type has already

    class Meta(NestedMetricSerializer.Meta):
        fields: ClassVar = NestedMetricSerializer.Meta.fields[1:]


@extend_schema_field({"type": ["object", "string"]})
class PayloadField(serializers.JSONField):
    """A JSON object, or a message as text."""


class ProposalSourceSerializer(StrictSerializer):
    """An example: `payload` (the JSON object, or a message as text), the newest message of `device`, or the message
    of a `quarantine` row. With `metrics` nothing is guessed: the answer says what these would give.
    """

    payload = PayloadField(required=False)
    device = serializers.UUIDField(required=False)
    quarantine_id = serializers.IntegerField(required=False, min_value=1, max_value=2**63 - 1)
    metrics = ProposedMetricSerializer(many=True, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the members together; raises ValidationError."""
        if len(attrs.keys() & {"payload", "device", "quarantine_id"}) != 1:
            raise ValidationError(_("Exactly one of 'payload', 'device' and 'quarantine_id' must be given."))
        return attrs


class ProposedReadingSerializer(serializers.Serializer):
    """A reading that the example would give."""

    metric = serializers.CharField()
    value = ValueField()
    unit = UnitField()


class RefusalSerializer(serializers.Serializer):
    """Reason for which the example would be rejected."""

    reason = serializers.CharField()
    detail = serializers.CharField()


class MetricProposalSerializer(serializers.Serializer):
    """The example, metrics for it, the readings that they would give, and the values that are left over."""

    message = serializers.JSONField()
    metrics = ProposedMetricSerializer(many=True)
    readings = ProposedReadingSerializer(many=True)
    unmapped = ProposedReadingSerializer(many=True)
    refusal = RefusalSerializer(allow_null=True)


class UnmatchedMetricSerializer(serializers.Serializer):
    """A metric that found nothing, and paths in the messages that resemble its path."""

    key = serializers.CharField(source="metric.key")
    path = serializers.CharField(source="metric.path")
    near = serializers.ListField(child=serializers.CharField(), help_text="At most three, the likeliest first.")


class UnmatchedMetricsSerializer(serializers.Serializer):
    """Metrics that found no value in any of `messages`; none without a message."""

    messages = serializers.IntegerField(
        help_text="Number of messages that were read: the 20 newest of the 20 devices heard last, and refused ones."
    )
    metrics = UnmatchedMetricSerializer(many=True)


class MetricMappingSerializer(StrictSerializer):
    """Metrics to create."""

    metrics = ProposedMetricSerializer(many=True, allow_empty=False)


class MappedSeriesSerializer(serializers.Serializer):
    """Numbers of series that have the metric's name with `unit`, and that keep the name of their path."""

    metric = serializers.CharField(source="metric.key")
    unit = UnitField()
    mapped_series = serializers.IntegerField(source="series")
    unmapped_series = serializers.IntegerField(source="unassigned_series")


class AppliedMappingSerializer(serializers.Serializer):
    """The created metrics and the series that they map."""

    metrics = NestedMetricSerializer(many=True)
    series = MappedSeriesSerializer(many=True, source="assignments")
