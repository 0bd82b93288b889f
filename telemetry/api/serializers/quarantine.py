"""Serializers of replays and suppressed messages of the quarantine."""

from typing import Any, ClassVar

from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.api.visibility import selector_of, visible_devices
from devices.models import Device
from telemetry.models import Quarantined, Reason, Replay, SuppressedMessages
from telemetry.services.quarantine.replays import MOST_CHOSEN
from tenants.api.serializers.base import RangeParameters, StrictSerializer, Timestamp
from tenants.infrastructure.error_codes import ErrorCode

from .base import payload_text


class NewReplaySerializer(StrictSerializer, RangeParameters):
    """The messages to replay; a member that is left out narrows nothing, so that `{}` is the whole quarantine."""

    from_help = "Last received not before this time."
    to_help = "Last received before this time."

    reason = serializers.ChoiceField(choices=Reason.choices, required=False)
    device = serializers.UUIDField(required=False, help_text="A device's UUID.")
    topic = serializers.CharField(required=False, max_length=1000, help_text="A part of the topic.")
    ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**63 - 1),
        required=False,
        min_length=1,
        max_length=MOST_CHOSEN,
        help_text="Messages of the quarantine, by their id.",
    )

    def validate_device(self, value: Any) -> Device:
        device = visible_devices(self.context["request"]).filter(uuid=value).first()
        if device is None:
            text = _("There is no device with the UUID %(uuid)s.") % {"uuid": value}
            raise serializers.ValidationError(text, ErrorCode.DOES_NOT_EXIST)
        return device

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the members together; raises ValidationError."""
        if "device" not in attrs and selector_of(self.context["request"]):
            refusal = _("A device must be given: your access is limited by a device selector.")
            raise serializers.ValidationError({"device": refusal})
        return super().validate(attrs)


class ReplaySerializer(serializers.ModelSerializer[Replay]):
    """A replay and how far it is: `total` messages, of which so many are `stored`, and so on."""

    device = serializers.UUIDField(source="device.uuid", read_only=True, allow_null=True, default=None)
    created_at = Timestamp(read_only=True)
    finished_at = Timestamp(read_only=True, allow_null=True)
    reason = serializers.ChoiceField(
        choices=Reason.choices, read_only=True, allow_blank=True, help_text="Empty: of any reason."
    )
    state = serializers.ChoiceField(choices=Replay.State.choices, read_only=True)
    refused = serializers.SerializerMethodField(help_text="Refused again: how many, by reason.")
    already_removed = serializers.IntegerField(
        source="gone", read_only=True, help_text="Had left the quarantine before their turn; known at the end."
    )
    percent = serializers.IntegerField(read_only=True)
    description = serializers.CharField(source="note", read_only=True, help_text="Reason for which the replay waits.")

    class Meta:
        model = Replay
        fields: ClassVar = [
            "id",
            "state",
            "description",
            "reason",
            "device",
            "topic",
            "ids",
            "from",
            "to",
            "total",
            "stored",
            "duplicates",
            "refused",
            "already_removed",
            "percent",
            "created_at",
            "created_by",
            "finished_at",
        ]
        read_only_fields: ClassVar = ["id", "reason", "topic", "total", "stored", "duplicates"]

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        fields = super().get_fields()
        return {name: fields[name] for name in self.Meta.fields}

    def build_field(self, field_name: str, info: Any, model_class: Any, nested_depth: int) -> Any:
        renamed = {"from": "start", "to": "stop", "ids": "chosen", "created_by": "created_by_label"}
        if field_name not in renamed:
            return super().build_field(field_name, info, model_class, nested_depth)
        source = renamed[field_name]
        if source in ("start", "stop"):
            return Timestamp, {"read_only": True, "source": source, "allow_null": True}
        if source == "chosen":
            return serializers.ListField, {
                "child": serializers.IntegerField(),
                "read_only": True,
                "source": source,
            }
        return serializers.CharField, {"read_only": True, "source": source}

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "integer"}})
    def get_refused(self, replay: Replay) -> dict[str, int]:
        return dict(replay.refused)


class SuppressedMessagesSerializer(serializers.ModelSerializer[SuppressedMessages]):
    """Messages of a day (UTC) that are like others in the quarantine, and were counted instead of kept."""

    device = serializers.SerializerMethodField(help_text="The device's UUID; null where it is none.")
    received_at = Timestamp(source="last_received_at", read_only=True)

    class Meta:
        model = SuppressedMessages
        fields: ClassVar = ["day", "reason", "device", "source", "count", "detail", "received_at"]
        read_only_fields = fields

    @extend_schema_field(OpenApiTypes.UUID)
    def get_device(self, row: Any) -> str | None:
        return None if row.device_uuid is None else str(row.device_uuid)


class QuarantinedSerializer(serializers.ModelSerializer[Quarantined]):
    """A message that was refused, as it was sent. The same one again raises `count` and `received_at`.

    With `metric`, only this metric's value was refused, and the message is stored with its other values.
    """

    device = serializers.UUIDField(source="device.uuid", read_only=True, allow_null=True, default=None)
    received_at = Timestamp(source="last_received_at", read_only=True)
    first_received_at = Timestamp(read_only=True)
    payload = serializers.SerializerMethodField(help_text="As it was sent; of a large one the first 64 KiB.")
    payload_encoding = serializers.SerializerMethodField()
    payload_size = serializers.IntegerField(read_only=True, help_text="Size of the payload in bytes.")

    class Meta:
        model = Quarantined
        fields: ClassVar = [
            "id",
            "reason",
            "detail",
            "topic",
            "device",
            "metric",
            "received_at",
            "first_received_at",
            "count",
            "payload",
            "payload_encoding",
            "payload_size",
        ]
        read_only_fields = fields

    @extend_schema_field(OpenApiTypes.STR)
    def get_payload(self, row: Any) -> str:
        """Return the payload as text."""
        return payload_text(bytes(row.payload_head), cut=row.payload_size > len(row.payload_head))[0]

    @extend_schema_field(serializers.ChoiceField(choices=["utf-8", "base64"]))
    def get_payload_encoding(self, row: Any) -> str:
        """Return the encoding of the payload's text."""
        return payload_text(bytes(row.payload_head), cut=row.payload_size > len(row.payload_head))[1]


class QuarantinePageSerializer(serializers.Serializer):
    results = QuarantinedSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of the next page; null on the last.")
