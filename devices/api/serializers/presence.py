"""History, timeline, availability; maintenance windows and the tenant's rules of presence."""

from typing import ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.api.visibility import VisibleDeviceField
from devices.models import MaintenanceWindow, PresenceSettings, StatusChange
from devices.models.presence import Cause, Status, SuppressedBy
from devices.services.presence import descriptions
from tenants.api.serializers.base import StoredTimestamp, StrictModelSerializer, Timestamp


class StatusChangeSerializer(serializers.Serializer[StatusChange]):
    """A change of status: `at` is when it was recorded, `evidence_at` the time of its evidence."""

    cause = serializers.ChoiceField(choices=Cause.choices)
    session = serializers.CharField()
    evidence_at = Timestamp()
    at = Timestamp()
    description = serializers.SerializerMethodField(help_text="The change in words.")
    suppressed_by = serializers.SerializerMethodField(
        help_text="Reason for which apps were not notified of the change, or null."
    )

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        # "from" is a keyword, so a class body cannot define it.
        return {
            "from": serializers.ChoiceField(choices=Status.choices, source="from_status"),
            "to": serializers.ChoiceField(choices=Status.choices, source="to_status"),
        } | super().get_fields()

    def get_description(self, change: StatusChange) -> str:
        return descriptions.describe_change(change)

    @extend_schema_field(serializers.ChoiceField(choices=SuppressedBy.choices, allow_null=True))
    def get_suppressed_by(self, change: StatusChange) -> SuppressedBy | None:
        return SuppressedBy(change.suppressed_by) if change.suppressed_by else None


class HistoryPageSerializer(serializers.Serializer):
    results = StatusChangeSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of the next page; null on the last.")


class SegmentSerializer(serializers.Serializer):
    """A stretch of time in one state: from ≤ time < to."""

    status = serializers.ChoiceField(choices=Status.choices)

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        return super().get_fields() | {"from": Timestamp(source="start"), "to": Timestamp(source="stop")}


class WindowSerializer(serializers.ModelSerializer[MaintenanceWindow]):
    """A maintenance window that has some time in the range."""

    starts_at = Timestamp()
    ends_at = Timestamp()
    description = serializers.CharField(source="reason", read_only=True)

    class Meta:
        model = MaintenanceWindow
        fields: ClassVar = ["starts_at", "ends_at", "description"]
        read_only_fields = fields


class TimelineSerializer(serializers.Serializer):
    """The states in order, without gap; time in `maintenance_windows` counts neither way."""

    results = SegmentSerializer(many=True)
    maintenance_windows = WindowSerializer(many=True)

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        return {"from": Timestamp(), "to": Timestamp()} | super().get_fields()


class AvailabilitySerializer(serializers.Serializer):
    """A month, as far as it is past. Maintenance, and time in which the state is not known, counts neither way."""

    month = serializers.CharField()
    percent = serializers.FloatField(allow_null=True, help_text="Of the time that counts; null where none does.")
    outages = serializers.IntegerField(help_text="An outage lasts until the device is ONLINE again.")
    longest_outage_seconds = serializers.FloatField()
    mean_time_between_failures_seconds = serializers.FloatField(
        allow_null=True, help_text="The available time over the number of outages; null without an outage."
    )
    known_seconds = serializers.FloatField(help_text="The time that counts.")

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        return super().get_fields() | {"from": Timestamp(), "to": Timestamp()}


class AvailabilityPageSerializer(serializers.Serializer):
    timezone = serializers.CharField()
    results = AvailabilitySerializer(many=True)


class MaintenanceWindowSerializer(StrictModelSerializer[MaintenanceWindow]):
    """From `starts_at` until `ends_at` the device's changes are recorded, and apps are not notified of them."""

    fixed = ("device",)

    device = VisibleDeviceField()
    starts_at = StoredTimestamp()
    ends_at = StoredTimestamp()
    description = serializers.CharField(
        source="reason", required=False, allow_blank=True, max_length=200, help_text="Purpose of the maintenance."
    )

    class Meta:
        model = MaintenanceWindow
        fields: ClassVar = ["id", "device", "starts_at", "ends_at", "description"]
        validators = ()


class PresenceSettingsSerializer(StrictModelSerializer[PresenceSettings]):
    """The tenant's rules of presence."""

    class Meta:
        model = PresenceSettings
        fields: ClassVar = ["timeout_seconds", "flapping_changes", "flapping_window_seconds"]
