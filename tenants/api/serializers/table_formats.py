"""Query parameters of CSV exports: separator, decimal sign and time zone."""

from typing import Any
from zoneinfo import ZoneInfo

from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.table_formats import DECIMALS, SEPARATORS

from .base import ExplainedSerializer, time_zone

_OF_CSV = ("separator", "decimal")


class SeparatorParameters(ExplainedSerializer):
    """The separator of a CSV."""

    separator = serializers.ChoiceField(
        choices=sorted(SEPARATORS), required=False, help_text="The sign between the cells of CSV; comma unless given."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the parameters together. Raises ValidationError."""
        valid: dict[str, Any] = super().validate(attrs)
        file_format = valid.get("format", "csv")
        if file_format != "csv" and (given := next((name for name in _OF_CSV if name in valid), "")):
            text = _("'%(name)s' applies to CSV only, and the format is %(format)s.")
            raise serializers.ValidationError(
                {given: ErrorDetail(text % {"name": given, "format": file_format}, ErrorCode.INVALID_CHOICE)}
            )
        if valid.get("decimal") == "comma" and valid.get("separator", "comma") == "comma":
            text = _("A decimal comma needs another separator: add separator=semicolon or separator=tab.")
            raise serializers.ValidationError({"separator": ErrorDetail(text, ErrorCode.INVALID_CHOICE)})
        return valid


class TimesParameters(SeparatorParameters):
    """The separator of a CSV, and the zone of its times."""

    timezone = serializers.CharField(
        required=False, help_text="Time zone of the times, for example Asia/Seoul; UTC unless given."
    )

    def validate_timezone(self, value: str) -> ZoneInfo:
        """Return the time zone. Raises ValidationError."""
        return time_zone(value)


class NumbersParameters(TimesParameters):
    """The separator of a CSV, the zone of its times and the sign in its numbers."""

    decimal = serializers.ChoiceField(
        choices=sorted(DECIMALS), required=False, help_text="The decimal sign of CSV; point unless given."
    )
