"""Limits of the tenant and what they refused."""

from typing import ClassVar

from rest_framework import serializers

from telemetry.models import LimitHit
from tenants.api.serializers.base import ExplainedSerializer, Timestamp, WholeNumber
from tenants.services.limits import LimitName
from tenants.services.quotas import QuotaName


class LimitSerializer(serializers.Serializer):
    """A limit or quota of the tenant, its use, and how many messages it refused today (UTC)."""

    name = serializers.ChoiceField(choices=[(name.value, name.value) for name in (*LimitName, *QuotaName)])
    value = serializers.FloatField(allow_null=True, help_text="Null: no limit.")
    burst = serializers.FloatField(allow_null=True, help_text="Of a rate: messages at once, after a silence.")
    source = serializers.ChoiceField(  # type: ignore[assignment]  # a member, not the field's own source
        choices=["tenant", "plan", "default"], help_text="Source of the limit."
    )
    used = serializers.FloatField(
        allow_null=True,
        help_text="Of the tenant's rates: messages a second, lately. Of the daily quota: messages today. Of a quota of "
        "objects: their number.",
    )
    is_near = serializers.BooleanField(help_text="Whether at least 80 % of the limit are used.")
    refused_today = serializers.IntegerField()
    resets_at = Timestamp(allow_null=True, help_text="Time at which the quota is reset.")


class LimitsPageSerializer(serializers.Serializer):
    results = LimitSerializer(many=True)


class LimitHitSerializer(serializers.ModelSerializer[LimitHit]):
    """Number of messages that a limit rejected on a day (UTC), with the device if it is a limit of devices."""

    name = serializers.CharField(source="limit", read_only=True)
    device = serializers.UUIDField(source="device.uuid", read_only=True, allow_null=True, default=None)

    class Meta:
        model = LimitHit
        fields: ClassVar = ["day", "name", "device", "count"]


class UsageParameters(ExplainedSerializer):
    """The query parameters."""

    days = WholeNumber(min_value=1, max_value=366, default=31, help_text="Number of days, today included.")


class DayUseSerializer(serializers.Serializer):
    """The use of a day (UTC)."""

    day = serializers.DateField()
    messages = serializers.IntegerField(help_text="Received messages.")
    readings = serializers.IntegerField(help_text="Readings that were stored of them.")


class LimitShareSerializer(serializers.Serializer):
    """A limit or quota of the tenant and the part of it that is used."""

    name = serializers.ChoiceField(choices=[(name.value, name.value) for name in (*LimitName, *QuotaName)])
    value = serializers.FloatField(allow_null=True, help_text="Null: no limit.")
    used = serializers.FloatField(allow_null=True, help_text="As of limits/.")
    share = serializers.FloatField(allow_null=True, help_text="`used` of `value`; null where there is none.")
    is_near = serializers.BooleanField(help_text="Whether at least 80 % of the limit are used.")


class UsageSerializer(serializers.Serializer):
    """The use of the tenant."""

    plan = serializers.CharField(allow_null=True, help_text="The name of its plan.")
    devices = serializers.IntegerField()
    active_devices = serializers.IntegerField()
    storage_bytes = serializers.IntegerField(help_text="Of all its tables with their indexes.")
    days = DayUseSerializer(many=True, help_text="Newest first; today is not over.")
    limits = LimitShareSerializer(many=True)
