"""Pages of the lists: `limit` and `offset`, or `limit` and a cursor."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request

from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.error_values import shown

MAX_LIMIT = 1000
_MAX_OFFSET = 10**9


class LimitOffsetPage(LimitOffsetPagination):
    """`results`, `next`, `previous`, `count`; an invalid limit or offset is rejected, not corrected."""

    default_limit = 100
    max_limit = MAX_LIMIT
    limit_query_description = "How many results, 1 to 1000."
    offset_query_description = "How many results to leave out from the beginning."
    parameters: tuple[str, ...] = ("limit", "offset")

    def get_limit(self, request: Request) -> int:
        return whole_number(request, "limit", 1, MAX_LIMIT, self.default_limit)

    def get_offset(self, request: Request) -> int:
        return whole_number(request, "offset", 0, _MAX_OFFSET, 0)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return the parameters with their bounds."""
        bounds = {
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": self.default_limit},
            "offset": {"type": "integer", "minimum": 0, "maximum": _MAX_OFFSET, "default": 0},
        }
        described = super().get_schema_operation_parameters(view)
        return [{**parameter, "schema": bounds[parameter["name"]]} for parameter in described]

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the schema of a page."""
        described = super().get_paginated_response_schema(schema)
        described["required"] = ["count", "next", "previous", "results"]
        for name in ("next", "previous"):
            described["properties"][name] |= {"type": ["string", "null"]}
            # The words of OpenAPI 3.0, which 3.1 does not know.
            described["properties"][name].pop("nullable", None)
        return described


def whole_number(request: Request, name: str, lowest: int, highest: int, default: int) -> int:
    """Return the query parameter as an int. Raises ValidationError (400) that names the range."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and lowest <= int(text) <= highest):
        raise ValidationError({name: ErrorDetail(range_refusal(name, lowest, highest, text), ErrorCode.OUT_OF_RANGE)})
    return int(text)


def range_refusal(name: str, lowest: int, highest: int, value: Any) -> str:
    """Return the error of a parameter that must be a whole number in a range."""
    values = {"name": name, "lowest": lowest, "highest": highest, "value": shown(value)}
    return _("%(name)r must be a whole number from %(lowest)d to %(highest)d, not %(value)s.") % values
