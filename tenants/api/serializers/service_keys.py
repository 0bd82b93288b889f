"""Service keys of the platform's staff."""

import datetime
from typing import ClassVar

from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import serializers

from tenants.api.serializers.base import StoredTimestamp, StrictSerializer
from tenants.models import ServiceKey
from tenants.models.service_keys import SERVICE_SCOPES


class ServiceKeySerializer(serializers.ModelSerializer[ServiceKey]):
    """A service key; `prefix` has its first characters."""

    issued_by = serializers.CharField(source="issued_by.username", read_only=True)
    valid = serializers.BooleanField(source="is_valid", read_only=True)

    class Meta:
        model = ServiceKey
        fields: ClassVar = [
            *("id", "name", "prefix", "scopes", "issued_by", "created_at", "expires_at", "revoked_at"),
            *("last_used_at", "valid"),
        ]
        read_only_fields = fields


class NewServiceKeySerializer(StrictSerializer):
    """A service key to issue."""

    name = serializers.CharField(max_length=120, help_text="Purpose of the key.")
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=SERVICE_SCOPES), min_length=1)
    expires_at = StoredTimestamp(
        required=False, allow_null=True, help_text="ISO 8601 with an offset; null: it does not end."
    )

    def validate_expires_at(self, value: datetime.datetime | None) -> datetime.datetime | None:
        """Return the time. Raises ValidationError for one that has passed."""
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError(_("'expires_at' must be in the future."))
        return value


class IssuedServiceKeySerializer(ServiceKeySerializer):
    """A key that was just issued. `key` is in this answer and never again."""

    key = serializers.CharField(read_only=True)

    class Meta(ServiceKeySerializer.Meta):
        fields: ClassVar = [*ServiceKeySerializer.Meta.fields, "key"]
