"""API keys."""

import datetime
from typing import Any, ClassVar

from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import serializers

from devices.api.idempotency import NULL_WHEN_REPEATED
from devices.domain.scopes import SCOPES, SET_NAMES, granted
from devices.models import ApiKey
from devices.services.api_keys import OVERLAP, default_end
from tenants.api.serializers.base import StoredTimestamp, StrictSerializer, WholeNumber

from .attributes import NetworksField
from .selectors import SelectorSerializer


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """An API key, without what it is: only `prefix`, its first characters, is known."""

    created_by = serializers.CharField(source="created_by_label", read_only=True)
    selector = SelectorSerializer(read_only=True)
    scopes = serializers.SerializerMethodField(help_text="The scopes, those of a set included.")
    successor = serializers.CharField(
        source="successor.prefix", read_only=True, allow_null=True, default=None, help_text="Prefix of its successor."
    )
    valid = serializers.BooleanField(source="is_valid", read_only=True)
    ends_soon = serializers.BooleanField(
        read_only=True, help_text="Whether it ends within days (`API_KEY_WARNING_DAYS`) and has no successor."
    )

    class Meta:
        model = ApiKey
        fields: ClassVar = [
            "id",
            "name",
            "description",
            "prefix",
            "scope",
            "scopes",
            "selector",
            "addresses",
            "created_at",
            "created_by",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "successor",
            "valid",
            "ends_soon",
        ]
        read_only_fields = fields

    def get_scopes(self, key: ApiKey) -> list[str]:
        return sorted(key.granted)


class NewApiKeySerializer(StrictSerializer):
    """An API key to issue."""

    name = serializers.CharField(max_length=120, help_text="Purpose of the key.")
    description = serializers.CharField(max_length=500, required=False, allow_blank=True)
    scope = serializers.ChoiceField(
        choices=SET_NAMES, required=False, help_text="The name of a set of scopes; `read` without `scopes`."
    )
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=SCOPES),
        required=False,
        min_length=1,
        help_text="Scopes, instead of a set's name.",
    )
    addresses = NetworksField(required=False)
    expires_at = StoredTimestamp(
        required=False,
        allow_null=True,
        help_text="ISO 8601 with an offset; by default after `API_KEY_DEFAULT_DAYS`. null: it does not end.",
    )
    selector = SelectorSerializer(
        required=False, help_text="The devices that the key can see; without members it sees all devices."
    )

    def validate_expires_at(self, value: datetime.datetime | None) -> datetime.datetime | None:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError(_("'expires_at' must be in the future."))
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the members together; raises ValidationError."""
        if "scope" in attrs and "scopes" in attrs:
            raise serializers.ValidationError({"scopes": _("Send either 'scope' or 'scopes'.")})
        if "scopes" in attrs:
            attrs["scope"] = ApiKey.Scope.CUSTOM
        attrs.setdefault("expires_at", default_end())
        own = self.context["request"].auth
        if isinstance(own, ApiKey):
            _check_delegation(own, attrs)
        return attrs


def _check_delegation(own: ApiKey, attrs: dict[str, Any]) -> None:
    """Raise ValidationError for a key with more rights than the key that issues it."""
    more = granted(attrs.get("scope", ApiKey.Scope.READ), attrs.get("scopes", ())) - own.granted
    if more:
        values = {"scopes": ", ".join(sorted(more))}
        raise serializers.ValidationError(
            {"scopes": _("Your own key does not have these scopes: %(scopes)s.") % values}
        )
    end = attrs["expires_at"]
    if own.expires_at is not None and (end is None or end > own.expires_at):
        raise serializers.ValidationError(
            {"expires_at": _("'expires_at' must not be later than that of your own key.")}
        )
    given = set(attrs.get("addresses", ()))
    if own.addresses and not (given and given <= set(own.addresses)):
        raise serializers.ValidationError({"addresses": _("'addresses' must be some of those of your own key.")})


class KeyRotationSerializer(StrictSerializer):
    """Options for the successor of an API key."""

    overlap_seconds = WholeNumber(
        min_value=0,
        max_value=90 * 86400,
        default=OVERLAP.days * 86400,
        help_text="Seconds for which the key itself stays valid; default: 7 days. Use 0 if it was disclosed.",
    )


class IssuedApiKeySerializer(ApiKeySerializer):
    """A key that was just issued. `key` is shown in this answer and never again.

    At the MQTT broker `prefix` is the username and the client id, and `key` the password. A key that was
    issued while the broker was unavailable has no account there and cannot get one: issue another.
    """

    key = serializers.CharField(read_only=True, allow_null=True, help_text=NULL_WHEN_REPEATED)

    class Meta(ApiKeySerializer.Meta):
        fields: ClassVar = [*ApiKeySerializer.Meta.fields, "key"]
