"""Publishers that wait at a gateway."""

import json
from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from devices.models import Metric, WaitingPublisher
from devices.models.base import validate_key
from tenants.api.serializers.base import StrictSerializer

_MAX_EXAMPLE = 16 * 1024
_MAX_METRICS = 64
_MAX_PUBLISHERS = 50


class ContractMetricSerializer(StrictSerializer):
    """A metric of a proposed component type."""

    key = serializers.CharField(validators=[validate_key])
    path = serializers.CharField(max_length=200)
    value_type = serializers.ChoiceField(choices=Metric.ValueType.choices)
    unit = serializers.CharField(max_length=40, required=False, help_text="A symbol, a name or a UCUM code.")
    unit_path = serializers.CharField(max_length=200, required=False)
    true_value = serializers.CharField(max_length=40, required=False)
    false_value = serializers.CharField(max_length=40, required=False)


class ContractSerializer(StrictSerializer):
    """The component type that a publisher would have."""

    key = serializers.CharField(validators=[validate_key])
    name = serializers.CharField(max_length=80)
    metrics = ContractMetricSerializer(many=True, max_length=_MAX_METRICS)  # type: ignore[call-arg]  # of the list


class AnnouncedPublisherSerializer(StrictSerializer):
    """A publisher that a gateway has seen."""

    publisher = serializers.RegexField(
        r"^[a-z0-9]+:[^\x00]+$", max_length=120, help_text="The dialect, a colon, and the name of the publisher."
    )
    message_count = serializers.IntegerField(min_value=1, max_value=2**63 - 1)
    example = serializers.DictField(help_text="Values as a message would have them.")
    contract = ContractSerializer()

    def validate_example(self, value: dict[str, Any]) -> dict[str, Any]:
        """Check the size of the example, which is stored."""
        text = json.dumps(value)
        if len(text) > _MAX_EXAMPLE or "\\u0000" in text:
            raise serializers.ValidationError(
                _("The example must have at most %(most)d bytes, without NUL.") % {"most": _MAX_EXAMPLE}
            )
        return value


class AnnouncementSerializer(StrictSerializer):
    """What a gateway has seen on its local broker."""

    publishers = AnnouncedPublisherSerializer(many=True, max_length=_MAX_PUBLISHERS)  # type: ignore[call-arg]  # of the list


class AnnouncedSerializer(serializers.Serializer):
    """How many publishers wait at the gateway."""

    waiting = serializers.IntegerField()


class WaitingPublisherSerializer(serializers.ModelSerializer[WaitingPublisher]):
    """A publisher that waits at a gateway."""

    gateway = serializers.SlugRelatedField(slug_field="uuid", read_only=True)  # type: ignore[var-annotated]
    example = serializers.DictField()
    contract = ContractSerializer()

    class Meta:
        model = WaitingPublisher
        fields: ClassVar = [
            *("id", "gateway", "publisher", "message_count", "example", "contract", "first_seen_at", "last_seen_at")
        ]
        read_only_fields = fields


class NewChildSerializer(StrictSerializer):
    """The device that a publisher becomes."""

    name = serializers.CharField(max_length=120, required=False, help_text="Default: the name of the publisher.")
