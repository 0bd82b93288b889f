"""Lists of objects that programs mirror: `changed_since` returns what was changed, and what was removed."""

from collections.abc import Iterable
from typing import Any, ClassVar

from django.db.models import Model
from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from devices.api.visibility import selector_of
from devices.services import object_changes
from tenants.api import cursors
from tenants.api.errors import Gone, InvalidParameters
from tenants.api.pagination import MAX_LIMIT, LimitOffsetPage, whole_number
from tenants.api.views.base import ObjectsView
from tenants.infrastructure.error_codes import ErrorCode

PARAMETER = "changed_since"
_NEWEST = "newest"
# The parameters that a page of changes can have.
_ALLOWED = (PARAMETER, "limit", "fields")


class MirroredPage(LimitOffsetPage):
    """A page of a list that can be mirrored; one of changes has `removed` and `changed_since` too."""

    key_type: ClassVar[str] = "string"
    parameters = (*LimitOffsetPage.parameters, PARAMETER)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return the parameters of a page, and `changed_since`."""
        description = (
            "Only the objects that were changed since: `changed_since` of an earlier answer, or `newest` for a position"
            " to begin with. Without filters and `offset`."
        )
        described = {
            "name": PARAMETER, "in": "query", "required": False, "description": description,
            "schema": {"type": "string"},
        }  # fmt: skip
        return [*super().get_schema_operation_parameters(view), described]

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the schema of a page, with the members of a page of changes."""
        described = super().get_paginated_response_schema(schema)
        described["properties"] |= {
            "removed": {
                "type": "array",
                "items": {"type": self.key_type},
                "description": "With `changed_since`: the UUIDs, ids or keys of objects that were removed.",
            },
            PARAMETER: {"type": "string", "description": "With `changed_since`: the position behind this page."},
        }
        return described


class MirroredPageOfIds(MirroredPage):
    """The same, of objects with numbers as ids."""

    key_type = "integer"


class MirroredObjects(ObjectsView):
    """A view of a list that can be mirrored. `kind` is that of the recorded changes."""

    pagination_class: type[MirroredPage] = MirroredPageOfIds
    # Statuses with which only the list can answer, for the OpenAPI document.
    list_statuses: ClassVar[tuple[str, ...]] = ("410",)
    kind: ClassVar[str]
    # Whether the objects are those of all clients, also with a device selector.
    is_shared: ClassVar[bool] = False

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """List the objects; with `changed_since` those that were changed, and the keys of removed ones."""
        if PARAMETER not in request.query_params:
            return super().list(request, *args, **kwargs)  # type: ignore[misc]
        return self._changes(request)

    def _changes(self, request: Request) -> Response:
        given = request.query_params[PARAMETER]
        self._check_changes(request)
        limit = whole_number(request, "limit", 1, MAX_LIMIT, LimitOffsetPage.default_limit)
        scope = f"changed:{self.kind}"
        if given == _NEWEST:
            return self._page(request, [], [], cursors.encode(scope, object_changes.newest()), has_more=False)
        try:
            page = object_changes.changed_keys(self.kind, _position(scope, given), limit)
        except object_changes.ObjectsLost as error:
            raise Gone(str(error), error.code) from error
        found = self._objects(page.keys)
        shown = [found[key] for key in page.keys if key in found]
        has_ids = self.pagination_class is MirroredPageOfIds
        removed = [int(key) if has_ids else key for key in page.keys if key not in found]
        return self._page(request, shown, removed, cursors.encode(scope, page.end), has_more=page.has_more)

    def _check_changes(self, request: Request) -> None:
        """Raise InvalidParameters for filters, and PermissionDenied for a client that cannot see all objects."""
        if others := sorted(set(request.query_params) - set(_ALLOWED)):
            text = _("%(name)r cannot be combined with 'changed_since'.") % {"name": others[0]}
            raise InvalidParameters({others[0]: ErrorDetail(text, ErrorCode.INVALID)})
        if not self.is_shared and selector_of(request):
            # The keys of removed objects, and those of objects that are not visible any more, are of all devices.
            raise PermissionDenied(_("'changed_since' requires access to all devices of the tenant."))

    def _objects(self, keys: Iterable[str]) -> dict[str, Model]:
        """Return the objects that there are, by key."""
        rows = list(self.get_queryset().filter(**{f"{self.lookup_field}__in": keys}))
        self.prepare(rows)
        return {str(getattr(row, self.lookup_field)): row for row in rows}

    def prepare(self, rows: Iterable[Any]) -> None:
        """Read what the serializer shows of all objects at once; a view can extend it."""

    def _page(
        self, request: Request, shown: Iterable[Model], removed: Iterable[str | int], cursor: str, *, has_more: bool
    ) -> Response:
        results = self.get_serializer(shown, many=True).data
        address = replace_query_param(request.build_absolute_uri(), PARAMETER, cursor)
        following = {"next": address if has_more else None, "previous": None}
        return Response({"count": len(results), **following, "results": results, "removed": removed, PARAMETER: cursor})


def _position(scope: str, given: str) -> list[Any]:
    try:
        return cursors.decode(scope, given)
    except ValidationError as error:
        text = _("'changed_since' must be 'newest', or the value of the last answer of this list.")
        raise InvalidParameters({PARAMETER: ErrorDetail(text, ErrorCode.INVALID_CURSOR)}) from error
