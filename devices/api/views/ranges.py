"""Lists over time, page by page with a cursor: what arrives while a client reads shifts nothing."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from tenants.api import cursors

from .base import TenantView


class ParameterView(TenantView):
    """A view whose query parameters are described by a serializer."""

    parameters_class: ClassVar[type[serializers.Serializer]]

    def known_parameters(self) -> Iterable[str]:
        return self.parameters_class().fields

    def wanted(self) -> dict[str, Any]:
        """The query parameters, checked."""
        given = self.parameters_class(data=self.request.query_params.dict())
        given.is_valid(raise_exception=True)
        return given.validated_data


class RangeView(ParameterView):
    """A list over time, page by page with a cursor."""

    row_class: ClassVar[type[serializers.Serializer]]

    def answer(self, rows: list[Any], limit: int, scope: str, position: Callable[[Any], list[Any]]) -> Response:
        """A page of `limit` of the rows; one more than that says that there is a next page."""
        page, following = rows[:limit], None
        if len(rows) > limit:
            cursor = cursors.encode(scope, position(page[-1]))
            following = replace_query_param(self.request.build_absolute_uri(), "cursor", cursor)
        return Response({"results": self.row_class(page, many=True).data, "next": following})
