"""Messages as they were received, and the daily counts of them."""

from typing import ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from telemetry.models import IngestTotals, Message
from tenants.api.serializers.base import Timestamp

from .base import payload_text

MAX_RANGES = 1000


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
        """Return the payload as text."""
        return payload_text(bytes(row.payload))[0]

    @extend_schema_field(serializers.ChoiceField(choices=["utf-8", "base64"]))
    def get_payload_encoding(self, row: Message) -> str:
        """Return the encoding of the payload's text."""
        return payload_text(bytes(row.payload))[1]


class MessagesPageSerializer(serializers.Serializer):
    results = MessageSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of the next page; null on the last.")


class TotalsSerializer(serializers.ModelSerializer[IngestTotals]):
    """Results of the messages of a day: received = stored + duplicates + quarantined + rate_limited.

    And of the values in the stored ones: values_received = values_stored + values_quarantined. Of `truncated` messages
    values without a metric were left out.
    """

    class Meta:
        model = IngestTotals
        fields: ClassVar = [
            *("day", "received", "stored", "duplicates", "quarantined", "rate_limited"),
            *("values_received", "values_stored", "values_quarantined", "truncated"),
        ]


class MissingRangeSerializer(serializers.Serializer):
    """Numbers of one boot that are missing, from the first to the last, both included."""

    boot = serializers.IntegerField()
    first = serializers.IntegerField()
    last = serializers.IntegerField()
    count = serializers.IntegerField()


class MissingSequencesSerializer(serializers.Serializer):
    """Completeness of the numbered messages of a device. Messages of version 1 have no numbers."""

    expected = serializers.IntegerField(help_text="Messages up to the newest number of each boot.")
    missing = serializers.IntegerField(help_text="Of these, how many are not stored: lost, refused, or on their way.")
    results = MissingRangeSerializer(many=True, help_text=f"The newest first, {MAX_RANGES} at most.")
