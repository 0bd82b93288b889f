"""Fields of the API that REST framework reads too leniently."""

import datetime
import re
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.fields import empty

# In a URL an unescaped + is a space; a space before the offset can be nothing else.
_SPACE_FOR_PLUS = re.compile(r"^([^ ]+[T ][0-9:.,]+) ([0-9]{2}:?[0-9]{2})$")


@extend_schema_field(OpenApiTypes.DATETIME)
class Timestamp(serializers.Field):
    """ISO 8601 with an offset or Z, as UTC. A time without an offset is refused: it is nobody's."""

    default_error_messages = {  # noqa: RUF012 (REST framework collects these)
        "invalid": _(
            "{value} is not a valid ISO 8601 time;"
            " use a form such as 2026-11-22T09:30:00Z or 2026-11-22T18:30:00+09:00."
        ),
        "naive": _("{value} has no offset. Add Z, or an offset like +09:00 (+ is %2B in a URL)."),
    }

    def to_internal_value(self, data: Any) -> datetime.datetime:
        """Return the value that the client sent; raises ValidationError."""
        try:
            value = datetime.datetime.fromisoformat(_SPACE_FOR_PLUS.sub(r"\1+\2", data))
            if value.tzinfo is not None:
                return value.astimezone(datetime.UTC)
        except (TypeError, ValueError, OverflowError):
            raise self._refusal("invalid", data) from None
        raise self._refusal("naive", data)

    def _refusal(self, code: str, data: Any) -> serializers.ValidationError:
        return serializers.ValidationError(self.error_messages[code].format(value=repr(data)), code=code)

    def to_representation(self, value: datetime.datetime) -> str:
        """Return the value for JSON."""
        return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


class WholeNumber(serializers.IntegerField):
    """An integer from `min_value` to `max_value`, refused with a text that names the range and the value."""

    def __init__(self, *, min_value: int, max_value: int, **options: Any) -> None:
        super().__init__(min_value=min_value, max_value=max_value, **options)
        self._range = min_value, max_value

    def run_validation(self, data: Any = empty) -> Any:
        """Return the number. Raises ValidationError."""
        try:
            return super().run_validation(data)
        except serializers.ValidationError:
            if data is empty:
                raise
            raise serializers.ValidationError(range_refusal(self.field_name or "", *self._range, data)) from None


def range_refusal(name: str, lowest: int, highest: int, value: Any) -> str:
    """Return why the value of a parameter is refused that must be a whole number in a range."""
    values = {"name": name, "lowest": lowest, "highest": highest, "value": value}
    return _t("%(name)r must be a whole number from %(lowest)d to %(highest)d, not %(value)r.") % values


def time_zone(name: str) -> ZoneInfo:
    """The time zone of that name. Raises ValidationError."""
    if name not in _zones():
        raise serializers.ValidationError(
            _("%(value)r is not a valid time zone; use a name such as Asia/Seoul or UTC.") % {"value": name}
        )
    return ZoneInfo(name)


@cache
def _zones() -> frozenset[str]:
    """The names of all time zones. Kept, because finding them reads some two thousand files."""
    return frozenset(available_timezones())
