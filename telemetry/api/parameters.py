"""The query parameters of the lists over time."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from devices.api.pagination import MAX_LIMIT
from telemetry.models import Reason
from tenants.api.fields import Timestamp


class RangeParameters(serializers.Serializer):
    """`from` inclusive, `to` exclusive, `limit`, `cursor`."""

    limit = serializers.IntegerField(
        min_value=1, max_value=MAX_LIMIT, default=100, help_text=f"How many results, 1 to {MAX_LIMIT}."
    )
    cursor = serializers.CharField(required=False, help_text="From `next` of the page before; not made by hand.")

    def get_fields(self) -> dict[str, serializers.Field]:
        # "from" is no name that a class body can hold.
        return super().get_fields() | {
            "from": Timestamp(required=False, help_text="Not before this time (ISO 8601 with an offset)."),
            "to": Timestamp(required=False, help_text="Before this time (ISO 8601 with an offset)."),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "from" in attrs and "to" in attrs and attrs["from"] >= attrs["to"]:
            raise serializers.ValidationError(
                {"from": _("'from' is before 'to': the range as given holds no instant.")}
            )
        return attrs


class ReadingsParameters(RangeParameters):
    device = serializers.UUIDField(help_text="A device's UUID.")
    component = serializers.CharField(help_text="A component's key, for example dht22.")
    metric = serializers.CharField(help_text="A metric's key, for example temperature.")
    limit = serializers.IntegerField(
        min_value=1, max_value=MAX_LIMIT, default=MAX_LIMIT, help_text=f"How many results, 1 to {MAX_LIMIT}."
    )


class MessagesParameters(RangeParameters):
    device = serializers.UUIDField(help_text="A device's UUID.")


class QuarantineParameters(RangeParameters):
    device = serializers.UUIDField(required=False, help_text="A device's UUID.")
    reason = serializers.ChoiceField(choices=Reason.choices, required=False)
