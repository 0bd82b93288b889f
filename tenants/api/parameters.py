"""Query parameters that lists of all apps share."""

from typing import Any, ClassVar

from django.utils.translation import gettext as _
from rest_framework import serializers

from .fields import Timestamp, WholeNumber
from .pagination import MAX_LIMIT


def limit_field(default: int = 100) -> WholeNumber:
    """Return the parameter `limit`: how many results a page holds."""
    return WholeNumber(
        min_value=1, max_value=MAX_LIMIT, default=default, help_text=f"How many results, 1 to {MAX_LIMIT}."
    )


class RangeParameters(serializers.Serializer):
    """A range of time: `from` inclusive, `to` exclusive."""

    from_required: ClassVar[bool] = False
    from_help: ClassVar[str] = "Not before this time (ISO 8601 with an offset)."
    to_help: ClassVar[str] = "Before this time (ISO 8601 with an offset)."

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        # "from" is a keyword: a class body cannot hold it.
        return super().get_fields() | {
            "from": Timestamp(required=self.from_required, help_text=self.from_help),
            "to": Timestamp(required=False, help_text=self.to_help),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse a range that ends before it begins."""
        if "from" in attrs and "to" in attrs and attrs["from"] >= attrs["to"]:
            raise serializers.ValidationError({"from": _("'from' must be earlier than 'to'.")})
        return attrs


class CursorParameters(serializers.Serializer):
    """A page: `limit` and `cursor`."""

    limit = limit_field()
    cursor = serializers.CharField(required=False, help_text="From `next` of the page before; not made by hand.")
