"""Key rotations."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.api.idempotency import NULL_WHEN_REPEATED
from devices.models import RotationCampaign, RotationMember
from devices.services.rotation import campaigns
from tenants.api.serializers.base import StoredTimestamp, StrictSerializer

from .inventory import hardware_model_field

# The API's names of states whose stored values are older.
_STATE_NAMES = {
    "carried": "handed_over",
    "moved": "confirmed",
    "left": "missed",
    "returning": "rolling_back",
    "returned": "rolled_back",
}
CAMPAIGN_STATES = [(_STATE_NAMES.get(value, value), label) for value, label in RotationCampaign.State.choices]
MEMBER_STATES = [(_STATE_NAMES.get(value, value), label) for value, label in RotationMember.State.choices]


class StateField(serializers.ChoiceField):
    """A state of a rotation or of a device in it, by the API's name."""

    def to_representation(self, value: Any) -> str:
        """Return the value for JSON."""
        return _STATE_NAMES.get(value, str(value))


class ProgressSerializer(serializers.Serializer):
    """Progress of a rotation. `version` is that of the new key, or 0 if it differs between devices."""

    devices = serializers.IntegerField()
    confirmed = serializers.IntegerField(help_text="Devices that signed with their new key.")
    waiting = serializers.IntegerField()
    sent = serializers.IntegerField()
    handed_over = serializers.IntegerField()
    missed = serializers.IntegerField()
    rolled_back = serializers.IntegerField()
    version = serializers.IntegerField()
    percent = serializers.IntegerField()
    description = serializers.CharField(source="__str__", help_text="In words.")


class RotationSummarySerializer(serializers.ModelSerializer[RotationCampaign]):
    """A key rotation."""

    state = StateField(choices=CAMPAIGN_STATES, read_only=True)
    created_by = serializers.CharField(source="created_by_label", read_only=True)
    deadline_action = serializers.ChoiceField(
        source="at_deadline", choices=RotationCampaign.AtDeadline.choices, read_only=True
    )
    extension_days = serializers.IntegerField(source="extend_days", read_only=True)
    extension_count = serializers.IntegerField(source="extended", read_only=True)
    cutover_at = serializers.DateTimeField(
        read_only=True, allow_null=True, help_text="Time at which the old keys expire, or the roll-back began."
    )

    class Meta:
        model = RotationCampaign
        fields: ClassVar = [
            "id",
            "name",
            "state",
            "created_at",
            "created_by",
            "deadline",
            "deadline_action",
            "extension_days",
            "extension_count",
            "cutover_at",
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
    state = StateField(choices=MEMBER_STATES, read_only=True)
    new_version = serializers.IntegerField(source="credential.version", default=None, allow_null=True)
    first_used_at = serializers.DateTimeField(source="credential.in_use_since", default=None, allow_null=True)
    description = serializers.CharField(source="note", read_only=True)

    class Meta:
        model = RotationMember
        fields: ClassVar = [
            "device",
            "name",
            "state",
            "old_version",
            "new_version",
            "first_used_at",
            "sent_at",
            "attempts",
            "description",
        ]
        read_only_fields = fields


class NewRotationSerializer(StrictSerializer):
    """A key rotation to start. Devices that match all given conditions are selected; without conditions, all."""

    name = serializers.CharField(max_length=120)
    deadline = StoredTimestamp(help_text="Latest expiry of the old keys: ISO 8601 with an offset.")
    deadline_action = serializers.ChoiceField(
        source="at_deadline",
        choices=RotationCampaign.AtDeadline.choices,
        default=RotationCampaign.AtDeadline.END,
        help_text="Action for the old keys of devices that do not sign with their new keys yet.",
    )
    extension_days = serializers.IntegerField(source="extend_days", min_value=1, max_value=90, default=7)
    marked_for_rotation = serializers.BooleanField(
        source="marked", default=False, help_text="Only devices whose newest key is marked."
    )
    hardware_model = hardware_model_field()
    search = serializers.CharField(
        max_length=120, required=False, allow_blank=True, default="", help_text="In the name, UUID or CPU serial."
    )
    devices = serializers.ListField(
        child=serializers.UUIDField(), required=False, default=list, max_length=10_000, help_text="These devices."
    )


class ExtensionSerializer(StrictSerializer):
    """Another deadline."""

    deadline = StoredTimestamp(help_text="ISO 8601 with an offset.")


class HandOverSerializer(StrictSerializer):
    """Selection of the devices whose keys are handed over."""

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
    token = serializers.CharField(
        allow_null=True,
        help_text=f"For `sys/wrapping/unwrap` of Vault, as X-Vault-Token; {NULL_WHEN_REPEATED}",
    )
    expires_at = serializers.DateTimeField()
