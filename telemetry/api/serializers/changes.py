"""Pages of stored rows in the order of storing."""

from typing import ClassVar

from rest_framework import serializers

from devices.api.serializers.presence import StatusChangeSerializer
from tenants.api.serializers.base import Timestamp

from .base import UnitField, ValueField
from .messages import MessageSerializer
from .quarantine import QuarantinedSerializer


class ChangesPageSerializer(serializers.Serializer):
    """A page of changes. `next` is always there: after the last page it returns later changes."""

    next = serializers.URLField(help_text="The address of the next page, to be kept with the copy.")
    has_more = serializers.BooleanField(help_text="Whether the next page can be read at once. If not, wait.")
    complete = serializers.BooleanField(
        help_text="False on a first page where earlier changes are not in the order: removed, or older than an upgrade."
    )
    behind_seconds = serializers.FloatField(
        help_text="Age of the oldest change that waits for an earlier transaction of the database; 0 where none waits."
    )


class StoredReadingSerializer(serializers.Serializer):
    """A reading, and when it was stored."""

    device = serializers.UUIDField()
    component = serializers.CharField()
    metric = serializers.CharField()
    value = ValueField()
    unit = UnitField()
    time = Timestamp()
    stored_at = Timestamp()


class StoredMessageSerializer(MessageSerializer):
    """A message as it was received, and when it was stored."""

    stored_at = Timestamp(read_only=True)

    class Meta(MessageSerializer.Meta):
        fields: ClassVar = [*MessageSerializer.Meta.fields, "stored_at"]
        read_only_fields = fields


class QuarantineChangeSerializer(serializers.Serializer):
    """A message that was added to the quarantine, changed in it, or removed from it."""

    id = serializers.IntegerField()
    removed = serializers.BooleanField(help_text="Whether the message is not in the quarantine any more.")
    message = QuarantinedSerializer(allow_null=True, help_text="As it is now; null where it was removed.")
    changed_at = Timestamp()


class DeviceStatusChangeSerializer(StatusChangeSerializer):
    """A change of a device's status."""

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        return {"device": serializers.UUIDField(source="device.uuid")} | super().get_fields()


class ReadingChangesPageSerializer(ChangesPageSerializer):
    results = StoredReadingSerializer(many=True)


class MessageChangesPageSerializer(ChangesPageSerializer):
    results = StoredMessageSerializer(many=True)


class QuarantineChangesPageSerializer(ChangesPageSerializer):
    results = QuarantineChangeSerializer(many=True)


class StatusChangesPageSerializer(ChangesPageSerializer):
    results = DeviceStatusChangeSerializer(many=True)
