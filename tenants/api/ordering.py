"""The parameter `ordering` of lists: the members by which the results are ordered."""

from collections.abc import Mapping
from typing import Any

from django.db.models import F, QuerySet
from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request

from tenants.api.errors import InvalidParameters
from tenants.infrastructure.error_codes import ErrorCode

PARAMETER = "ordering"


class OrderingBackend(BaseFilterBackend):
    """Orders a list whose view has `orderings`: member → column. Null comes last, and ids decide what is equal."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        """Return the rows in the order that the request wants. Raises InvalidParameters."""
        columns: Mapping[str, str] = getattr(view, "orderings", {})
        if not columns or PARAMETER not in request.query_params:
            return queryset
        given = request.query_params[PARAMETER]
        names = given.split(",")
        bare = [name.removeprefix("-") for name in names]
        if unknown := [name for name in bare if name not in columns]:
            values = {"name": unknown[0], "known": ", ".join(sorted(columns))}
            text = _("%(name)r is not a member to order by. Members: %(known)s; a hyphen before one reverses it.")
            raise InvalidParameters({PARAMETER: ErrorDetail(text % values, ErrorCode.INVALID_CHOICE)})
        if len(set(bare)) < len(bare):
            text = _("'ordering' must have each member only once, not %(value)r.") % {"value": given[:200]}
            raise InvalidParameters({PARAMETER: ErrorDetail(text, ErrorCode.REPEATED)})
        return queryset.order_by(*(_ordered(columns, name) for name in names), "pk")

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return the description of the parameter."""
        names = sorted(getattr(view, "orderings", {}))
        if not names:
            return []
        either = "|".join(names)
        return [
            {
                "name": PARAMETER,
                "in": "query",
                "required": False,
                "description": f"Members to order by, with commas; a hyphen reverses: {', '.join(names)}.",
                "schema": {"type": "string", "pattern": f"^-?({either})(,-?({either}))*$"},
            }
        ]


def _ordered(columns: Mapping[str, str], name: str) -> Any:
    column = F(columns[name.removeprefix("-")])
    return column.desc(nulls_last=True) if name.startswith("-") else column.asc(nulls_last=True)
