"""Query parameters of a device's history, timeline and availability."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from devices.models.access import ACTIONS
from devices.models.presence import Cause, Status
from tenants.api.serializers.base import CursorParameters, ExplainedSerializer, RangeParameters, WholeNumber, time_zone
from tenants.api.serializers.table_formats import TimesParameters
from tenants.infrastructure.error_codes import ErrorCode

DAY = timedelta(days=1)
LONGEST = timedelta(days=366)
MOST_MONTHS = 36
_MONTH = re.compile(r"^(2[0-9]{3})-(0[1-9]|1[0-2])$", re.ASCII)
_ADDRESS = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
# No device has sent a message before it; the arithmetic of calendars has room on both sides.
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


@extend_schema_field({"type": "string", "pattern": _MONTH.pattern})
class MonthField(serializers.CharField):
    """A month such as 2026-11."""


@extend_schema_field(_ADDRESS)
class AddressField(serializers.IPAddressField):
    """An address of IPv4 or IPv6."""


class HistoryParameters(RangeParameters, CursorParameters):
    cause = serializers.ChoiceField(choices=Cause.choices, required=False)
    status = serializers.ChoiceField(choices=Status.choices, required=False, help_text="New state of the change.")


class AuditFilters(RangeParameters):
    """Who, what, which object, and when."""

    user = serializers.CharField(max_length=150, required=False, help_text="The name of the person or key, exactly.")
    key_id = WholeNumber(min_value=1, max_value=2**53 - 1, required=False, help_text="The number of an API key.")
    address = AddressField(required=False, help_text="The client's address.")
    request_id = serializers.CharField(max_length=64, required=False, help_text="`X-Request-ID` of the request.")
    action = serializers.ChoiceField(choices=sorted(ACTIONS), required=False)
    object_type = serializers.CharField(max_length=80, required=False, help_text="For example `devices.device`.")
    object_id = serializers.CharField(max_length=64, required=False, help_text="The number of the object.")


class AuditParameters(AuditFilters, CursorParameters):
    """The entries, page by page."""


class AuditExportParameters(TimesParameters, AuditFilters):
    """The entries as a file."""


class TimelineParameters(RangeParameters):
    """A range that ends now at the latest; default: the last 24 hours."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the members together; raises ValidationError."""
        attrs, now = super().validate(attrs), timezone.now()
        stop = max(min(attrs.get("to", now), now), _EARLIEST)
        start = max(attrs.get("from", stop - DAY), _EARLIEST)
        if stop - start > LONGEST:
            refusal = _("The range must not be longer than %(days)d days.") % {"days": LONGEST.days}
            raise serializers.ValidationError({"from": ErrorDetail(refusal, ErrorCode.INVALID_RANGE)})
        return {"from": start, "to": max(start, stop)}


class AvailabilityParameters(ExplainedSerializer):
    month = MonthField(required=False, help_text="The month, or the last of them; this month unless given.")
    months = WholeNumber(
        min_value=1, max_value=MOST_MONTHS, default=1, help_text="Number of months up to that one, newest first."
    )
    timezone = serializers.CharField(default="UTC", help_text="Time zone of the months, for example Asia/Seoul.")

    def validate_month(self, value: str) -> tuple[int, int]:
        found = _MONTH.match(value)
        if found is None:
            raise serializers.ValidationError(
                _("%(value)r is not a valid month; use a form such as 2026-11.") % {"value": value},
                ErrorCode.INVALID_FORMAT,
            )
        return int(found[1]), int(found[2])

    def validate_timezone(self, value: str) -> ZoneInfo:
        """Validate the time zone's name."""
        return time_zone(value)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the members together; raises ValidationError."""
        today = timezone.now().astimezone(attrs["timezone"])
        return {"month": (today.year, today.month)} | attrs
