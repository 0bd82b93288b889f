"""API keys."""

import datetime
from typing import ClassVar

from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import serializers

from devices.api.idempotency import NULL_WHEN_REPEATED
from devices.models import ApiKey
from tenants.api.serializers.base import StrictSerializer, Timestamp

from .selectors import SelectorSerializer


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """An API key, without what it is: only `prefix`, its first characters, is known."""

    created_by = serializers.CharField(source="created_by_label", read_only=True)
    selector = SelectorSerializer(read_only=True)
    valid = serializers.BooleanField(source="is_valid", read_only=True)

    class Meta:
        model = ApiKey
        fields: ClassVar = [
            "id",
            "name",
            "prefix",
            "scope",
            "selector",
            "created_at",
            "created_by",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "valid",
        ]
        read_only_fields = fields


class NewApiKeySerializer(StrictSerializer):
    """An API key to issue."""

    name = serializers.CharField(max_length=120, help_text="Purpose of the key.")
    scope = serializers.ChoiceField(choices=ApiKey.Scope.choices, default=ApiKey.Scope.READ)
    expires_at = Timestamp(required=False, allow_null=True, help_text="ISO 8601 with an offset.")
    selector = SelectorSerializer(
        required=False, help_text="The devices that the key can see; without members it sees all devices."
    )

    def validate_expires_at(self, value: datetime.datetime | None) -> datetime.datetime | None:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError(_("'expires_at' must be in the future."))
        return value


class IssuedApiKeySerializer(ApiKeySerializer):
    """A key that was just issued. `key` is shown in this answer and never again.

    At the MQTT broker `prefix` is the username and the client id, and `key` the password. A key that was
    issued while the broker was unavailable has no account there and cannot get one: issue another.
    """

    key = serializers.CharField(read_only=True, allow_null=True, help_text=NULL_WHEN_REPEATED)

    class Meta(ApiKeySerializer.Meta):
        fields: ClassVar = [*ApiKeySerializer.Meta.fields, "key"]
