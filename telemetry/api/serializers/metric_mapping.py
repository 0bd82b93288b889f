"""Proposals of metrics from a message, and metrics that are applied."""

from typing import Any, ClassVar

from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from devices.api.serializers.metadata import NestedMetricSerializer
from telemetry.api.serializers.readings import UnitField, ValueField
from tenants.api.serializers.base import StrictSerializer


class TaughtMetricSerializer(NestedMetricSerializer):
    """A metric that is proposed, or accepted."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return attrs  # checked all together, beside the metrics that the type has already

    class Meta(NestedMetricSerializer.Meta):
        fields: ClassVar = NestedMetricSerializer.Meta.fields[1:]


class ProposeSerializer(StrictSerializer):
    """An example: `payload` (the JSON object, or a message as text), the newest message of `device`, or the message
    of a `quarantine` row. With `metrics` nothing is guessed: the answer says what these would give.
    """

    payload = serializers.JSONField(required=False)
    device = serializers.UUIDField(required=False)
    quarantined = serializers.IntegerField(required=False, min_value=1, max_value=2**63 - 1)
    metrics = TaughtMetricSerializer(many=True, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len(attrs.keys() & {"payload", "device", "quarantined"}) != 1:
            raise ValidationError(_("Give one of payload, device and quarantined."))
        return attrs


class TaughtReadingSerializer(serializers.Serializer):
    """A reading that the example would give."""

    metric = serializers.CharField()
    value = ValueField()
    unit = UnitField()


class RefusalSerializer(serializers.Serializer):
    """Why the example would be refused."""

    reason = serializers.CharField()
    detail = serializers.CharField()


class ProposalSerializer(serializers.Serializer):
    """The example, metrics for it, the readings that they would give, and the values that are left over."""

    example = serializers.JSONField()
    metrics = TaughtMetricSerializer(many=True)
    readings = TaughtReadingSerializer(many=True)
    unmapped = TaughtReadingSerializer(many=True)
    refusal = RefusalSerializer(allow_null=True)


class AcceptSerializer(StrictSerializer):
    """The metrics to make."""

    metrics = TaughtMetricSerializer(many=True, allow_empty=False)


class AdoptedSerializer(serializers.Serializer):
    """How many series got the metric's name with `unit`, and how many keep the name of their path."""

    metric = serializers.CharField(source="metric.key")
    unit = UnitField()
    series = serializers.IntegerField()
    apart = serializers.IntegerField()


class AcceptedSerializer(serializers.Serializer):
    metrics = NestedMetricSerializer(many=True)
    adopted = AdoptedSerializer(many=True)
