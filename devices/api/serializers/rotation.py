"""Key rotations."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.models import RotationCampaign, RotationMember
from devices.services.rotation import campaigns
from tenants.api.fields import Timestamp
from tenants.api.serializers.base import StrictSerializer

from .inventory import hardware_model_field


class ProgressSerializer(serializers.Serializer):
    """How far it is. `version` is the new key's, where it is the same for all devices, else 0."""

    devices = serializers.IntegerField()
    moved = serializers.IntegerField(help_text="Devices that were seen to sign with their new key.")
    waiting = serializers.IntegerField()
    sent = serializers.IntegerField()
    carried = serializers.IntegerField()
    left = serializers.IntegerField()
    returned = serializers.IntegerField()
    version = serializers.IntegerField()
    percent = serializers.IntegerField()
    text = serializers.CharField(source="__str__", help_text="In words.")


class RotationSummarySerializer(serializers.ModelSerializer[RotationCampaign]):
    """A key rotation."""

    class Meta:
        model = RotationCampaign
        fields: ClassVar = [
            "id",
            "name",
            "state",
            "created_at",
            "created_by_label",
            "deadline",
            "at_deadline",
            "extend_days",
            "extended",
            "turned_at",
        ]
        read_only_fields = fields


class RotationCampaignSerializer(RotationSummarySerializer):
    """A key rotation and how far it is."""

    progress = serializers.SerializerMethodField()

    class Meta(RotationSummarySerializer.Meta):
        fields: ClassVar = [*RotationSummarySerializer.Meta.fields, "progress"]

    @extend_schema_field(ProgressSerializer)
    def get_progress(self, campaign: RotationCampaign) -> Any:
        return ProgressSerializer(campaigns.progress(campaign)).data


class RotationMemberSerializer(serializers.ModelSerializer[RotationMember]):
    """A device in a key rotation."""

    device = serializers.UUIDField(source="device.uuid")
    name = serializers.CharField(source="device.name")
    new_version = serializers.IntegerField(source="credential.version", default=None, allow_null=True)
    in_use_since = serializers.DateTimeField(source="credential.in_use_since", default=None, allow_null=True)

    class Meta:
        model = RotationMember
        fields: ClassVar = [
            "device",
            "name",
            "state",
            "old_version",
            "new_version",
            "in_use_since",
            "sent_at",
            "attempts",
            "note",
        ]
        read_only_fields = fields


class NewRotationSerializer(StrictSerializer):
    """A key rotation to start. Everything that is given must hold of a device; without anything, all are taken."""

    name = serializers.CharField(max_length=120)
    deadline = Timestamp(help_text="When the old keys end at the latest: ISO 8601 with an offset.")
    at_deadline = serializers.ChoiceField(
        choices=RotationCampaign.AtDeadline.choices,
        default=RotationCampaign.AtDeadline.END,
        help_text="What happens to the old keys of devices that have not moved by then.",
    )
    extend_days = serializers.IntegerField(min_value=1, max_value=90, default=7)
    marked = serializers.BooleanField(default=False, help_text="Devices whose newest key is marked to be rotated.")
    hardware_model = hardware_model_field()
    search = serializers.CharField(
        max_length=120, required=False, default="", help_text="In the name, UUID or CPU serial."
    )
    devices = serializers.ListField(
        child=serializers.UUIDField(), required=False, default=list, max_length=10_000, help_text="These devices."
    )


class ExtensionSerializer(StrictSerializer):
    """Another deadline."""

    deadline = Timestamp(help_text="ISO 8601 with an offset.")


class HandOverSerializer(StrictSerializer):
    """Whose keys to hand over."""

    devices = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        default=list,
        max_length=200,
        help_text="These devices; without any, all that no command reaches, 200 at most.",
    )


class TokenSerializer(serializers.Serializer):
    """A token that gives a device's new key once. It is in this answer and never again."""

    device = serializers.UUIDField(source="uuid")
    name = serializers.CharField()
    kid = serializers.IntegerField()
    token = serializers.CharField(help_text="For `sys/wrapping/unwrap` of Vault, as X-Vault-Token.")
    expires_at = serializers.DateTimeField()
