"""Serializers of messages that devices send over HTTP, and of the answers."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from telemetry.models import Reason
from telemetry.services.ingest.http_ingest import MessageState
from telemetry.services.pipeline import form
from telemetry.services.pipeline.results import Refusal, TopicKind
from tenants.api.serializers.base import StrictSerializer

# As many as one batch of the listener; the body is limited to 64 KB besides.
MOST_MESSAGES = 250
_TOPIC_LENGTH = 1000


class DeviceMessageSerializer(StrictSerializer):
    """A signed message of version 1 or 2, as the device would publish it over MQTT."""

    topic = serializers.CharField(
        max_length=_TOPIC_LENGTH, trim_whitespace=False, help_text="`telemetry/{tenant}/{uuid}/{component}`."
    )
    payload = serializers.CharField(
        trim_whitespace=False,
        help_text="The payload as a text, byte for byte: the JSON object (version 1) or the compact JWS (version 2).",
    )

    def validate_topic(self, value: str) -> str:
        """Check that it is a telemetry topic of the address's device: births and wills belong to MQTT connections."""
        uuid = self.context["uuid"]
        try:
            topic = form.parse_topic(value)
        except Refusal:
            topic = None
        if topic is None or topic.kind is not TopicKind.TELEMETRY or topic.uuid != uuid:
            text = _("The topic must be telemetry/{tenant}/%(uuid)s/{component}: only the device's own telemetry.")
            raise serializers.ValidationError(text % {"uuid": uuid})
        return value


class DeviceMessagesSerializer(StrictSerializer):
    """Messages of one device."""

    messages = serializers.ListField(
        child=DeviceMessageSerializer(),
        min_length=1,
        max_length=MOST_MESSAGES,
        help_text=f"One to {MOST_MESSAGES} messages, in the order in which they were measured.",
    )


class MessageReceiptSerializer(serializers.Serializer[Any]):
    """What became of a message."""

    state = serializers.ChoiceField(
        choices=[(one.value, one.value) for one in MessageState],
        help_text="stored; duplicate: it was stored before; quarantined, with `reason`; limited: not stored, to be sent"
        " again after `retry_after` seconds.",
    )
    reason = serializers.ChoiceField(choices=Reason.choices, allow_blank=True)
    detail = serializers.CharField(
        help_text="The correction that a quarantined message, or a refused value of a stored one, needs; the bound by "
        "which values of a stored one were left out."
    )
    limit = serializers.CharField(
        help_text="The limit that a limited message exceeds; `address_failures`: that of messages without a valid "
        "signature from one address."
    )
    retry_after = serializers.FloatField(allow_null=True, help_text="Seconds; null unless the message is limited.")


class MessageReceiptsSerializer(serializers.Serializer[Any]):
    """What became of the messages, in their order."""

    results = MessageReceiptSerializer(many=True)
