"""Base classes of the API's views, and the answer for unknown addresses."""

import math
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, ClassVar, NoReturn

from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve
from django.utils.functional import Promise
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers, status
from rest_framework.exceptions import ErrorDetail, NotAuthenticated, NotFound
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from tenants.api import cursors
from tenants.api.errors import InvalidHeader, InvalidParameters
from tenants.api.permissions import ANY_KEY
from tenants.api.serializers.base import QuickSerializer
from tenants.infrastructure.error_codes import ErrorCode
from tenants.services.roles import Role

FIELDS = OpenApiParameter(
    "fields", str, description="The members to return, with commas; unless given, all. For example uuid,name,status."
)


class StrictView(APIView):
    """Rejects unknown query parameters, and keeps responses out of caches."""

    how_to_authenticate: ClassVar[str | Promise] = _("Log in first.")
    # So many results of a list are the work of one request: a longer page counts as several.
    results_per_request: ClassVar[int] = 100
    # Whether a POST with this header is carried out once; elsewhere it is rejected.
    accepts_idempotency_key: ClassVar[bool] = False

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """Prepare the view; each answers OPTIONS."""
        self.http_method_names = list(dict.fromkeys([*self.http_method_names, "options"]))
        return super().initialize_request(request, *args, **kwargs)

    def options(self, request: Request, *args: Any, **kwargs: Any) -> Response:  # type: ignore[override]
        """Return an empty answer, whose header `Allow` lists the methods."""
        return Response(status=status.HTTP_204_NO_CONTENT)

    def known_parameters(self) -> Iterable[str]:
        """Return the query parameters of a GET."""
        return ()

    def repeatable_parameters(self) -> Iterable[str]:
        """Return the query parameters that can be given several times."""
        return ()

    def check_permissions(self, request: Request) -> None:
        """Answer 405 for a method that no client can use here, before asking what this client may do."""
        if request.method not in self.allowed_methods:
            self.http_method_not_allowed(request)
        super().check_permissions(request)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check the request before its handler runs."""
        super().initial(request, *args, **kwargs)
        if request.method in ("GET", "HEAD"):
            refuse_unknown_parameters(request, self.known_parameters(), self.repeatable_parameters())
            return
        refuse_unknown_parameters(request, ())
        if request.method == "POST" and "Idempotency-Key" in request.headers and not self.accepts_idempotency_key:
            raise InvalidHeader({"Idempotency-Key": _t("This address does not accept 'Idempotency-Key'.")})

    def weight_of(self, request: Request) -> int:
        """Return how many requests the request counts as in the tenant's limit."""
        limit = request.query_params.get("limit", "")
        # Whether the number is valid is checked later.
        results = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 10 else 0
        return max(1, math.ceil(results / self.results_per_request))

    def get_throttles(self) -> list[Any]:
        """Return the throttles; they are kept, because they know what is left of their limits."""
        self._throttles = super().get_throttles()
        return self._throttles

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)
        response.headers.setdefault("Cache-Control", "no-store")
        for throttle in getattr(self, "_throttles", ()):
            for name, value in throttle.headers().items():
                response.headers[name] = value
        return response

    def permission_denied(self, request: Request, message: str | None = None, code: str | None = None) -> NoReturn:
        if request.authenticators and not request.successful_authenticator:
            raise NotAuthenticated(str(self.how_to_authenticate))
        super().permission_denied(request, message, code)
        raise AssertionError("permission_denied() raises")


class DeviceScope(StrEnum):
    """The access of clients with a device selector to a view."""

    DEVICES = "devices"  # the view shows and changes their devices only
    SHARED = "shared"  # they read what belongs to no device, and change nothing
    TENANT = "tenant"  # closed to them


class TenantView(StrictView):
    """A view in a tenant. The permission classes read the roles and the flags for API keys.

    A view is closed to clients with a device selector unless it states another `device_scope`.
    """

    device_scope: ClassVar[DeviceScope] = DeviceScope.TENANT
    # The lookup that leads from the rows of the view's queryset to their devices.
    device_path: ClassVar[str] = ""

    role_to_read: ClassVar[Role] = Role.VIEWER
    role_to_write: ClassVar[Role] = Role.ADMIN
    # The resource in the scopes of API keys; empty: all scopes that only read, or that only read and write.
    resource: ClassVar[str] = ""
    how_to_authenticate = _("Send an API key of this tenant (Authorization: Bearer <key>), or log in.")

    def needed_scope(self, reading: bool) -> str:
        """Return the scopes that an API key needs, with spaces, `ANY_KEY`, or "" for the set `read` or `write`."""
        if self.resource in ("", ANY_KEY):
            return self.resource
        return f"{self.resource}:{'read' if reading else 'write'}"


class ObjectsView(TenantView, GenericAPIView):
    """A view over objects of one model."""

    # The members by which the list can be ordered, with their columns.
    orderings: ClassVar[Mapping[str, str]] = {}

    def known_parameters(self) -> Iterable[str]:
        """Return the names of the accepted query parameters."""
        fields = ("fields",) if self._chooses_fields() else ()
        if getattr(self, "action", "list") != "list":
            return fields
        filterset = getattr(self, "filterset_class", None)
        ordering = ("ordering",) if self.orderings else ()
        filters = filterset.base_filters if filterset else ()
        return {*fields, *ordering, *getattr(self.paginator, "parameters", ()), *filters}

    def repeatable_parameters(self) -> Iterable[str]:
        """Return the query parameters that can be given several times."""
        filterset = getattr(self, "filterset_class", None)
        filters = filterset.base_filters.items() if filterset else ()
        return [name for name, one in filters if getattr(one, "is_repeatable", False)]

    def wanted_fields(self) -> frozenset[str] | None:
        """Return the members that `fields` names; None without it. Raises InvalidParameters (400)."""
        if not self._chooses_fields() or "fields" not in self.request.query_params:
            return None
        known = self.serializer_class.Meta.fields  # type: ignore[union-attr]
        names = self.request.query_params["fields"].split(",")
        if unknown := [name for name in names if name not in known]:
            values = {"name": unknown[0], "known": ", ".join(known)}
            text = _t("%(name)r is not a member that can be selected. Members: %(known)s.") % values
            raise InvalidParameters({"fields": ErrorDetail(text, ErrorCode.INVALID)})
        return frozenset(names)

    def get_serializer_context(self) -> dict[str, Any]:
        """Return the context of serializers, with the members to show."""
        return {**super().get_serializer_context(), "fields": self.wanted_fields()}

    def _chooses_fields(self) -> bool:
        request = getattr(self, "request", None)
        shows = request is None or request.method in ("GET", "HEAD")
        shows = shows and getattr(self, "action", "list") in ("list", "retrieve")
        return bool(shows and self.serializer_class and issubclass(self.serializer_class, QuickSerializer))

    def filter_queryset(self, queryset: Any) -> Any:
        """Return the objects that the client can see and, of a list, that the parameters select."""
        is_list = getattr(self, "action", "list") == "list"
        for backend in self.filter_backends:
            if is_list or getattr(backend, "for_objects", False):
                queryset = backend().filter_queryset(self.request, queryset, self)
        return queryset

    def get_object(self) -> Any:
        """Return the object of the request."""
        try:
            return super().get_object()
        except Http404 as error:
            name, value = next(iter(self.kwargs.items()))
            kind = self.get_queryset().model._meta.verbose_name
            values = {"kind": kind, "name": name, "value": value}
            raise NotFound(_t("There is no %(kind)s with the %(name)s %(value)s.") % values) from error


class ParametersView(TenantView):
    """A view whose query parameters are described by a serializer; its list fields may be given several times."""

    parameters_class: ClassVar[type[serializers.Serializer]]

    def known_parameters(self) -> Iterable[str]:
        """Return the names of the accepted query parameters."""
        return self.parameters_class().fields

    def repeatable_parameters(self) -> list[str]:
        fields = self.parameters_class().fields
        return [name for name, field in fields.items() if isinstance(field, serializers.ListField)]

    def given_parameters(self) -> dict[str, Any]:
        """Return the query parameters as text, or lists of texts, before validation."""
        lists, query = self.repeatable_parameters(), self.request.query_params
        return {name: query.getlist(name) if name in lists else query[name] for name in query}

    def valid_parameters(self) -> dict[str, Any]:
        """Return the validated query parameters. Raises ValidationError (400)."""
        serializer = self.parameters_class(data=self.given_parameters())
        serializer.is_valid(raise_exception=True)
        return serializer.validated_data


class CursorPageView(ParametersView):
    """A list over time, page by page with a cursor: rows that arrive while a client reads shift nothing."""

    row_class: ClassVar[type[serializers.Serializer]]
    results_per_request = 1000

    def page(self, rows: list[Any], limit: int, scope: str, position: Callable[[Any], list[Any]]) -> Response:
        """Return a page of `limit` rows; one row more than `limit` means that there is a next page."""
        page, following = rows[:limit], None
        if len(rows) > limit:
            following = self.next_address(scope, position(page[-1]))
        return Response({"results": self.row_data(page), "next": following})

    def row_data(self, rows: list[Any]) -> list[Any]:
        """Return the rows as `row_class` describes them."""
        return list(self.row_class(rows, many=True).data)

    def next_address(self, scope: str, position: list[Any]) -> str:
        """Return the address of the page that begins after the position."""
        return replace_query_param(self.request.build_absolute_uri(), "cursor", cursors.encode(scope, position))


class UnknownAddressView(APIView):
    """404 in the API's shape for unknown addresses under `api/`; redirects a GET without the last slash."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    throttle_classes = ()
    schema = None

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method in ("GET", "HEAD") and _exists_with_slash(request):
            query = request.META.get("QUERY_STRING", "")
            return HttpResponseRedirect(f"{request.path}/" + (f"?{query}" if query else ""))
        return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> NoReturn:
        """Check the request before its handler runs."""
        text = _t("There is nothing at %(path)s. GET api/v1/ lists the addresses.")
        if _exists_with_slash(request._request):
            text = _t("There is nothing at %(path)s. The address must end with a slash: %(path)s/")
        raise NotFound(text % {"path": request.path}, ErrorCode.UNKNOWN_ADDRESS)


def refuse_unknown_parameters(request: Request, known: Iterable[str], repeatable: Iterable[str] = ()) -> None:
    """Raise ValidationError (400) for parameters that are unknown, given twice or empty, instead of ignoring them."""
    names, known, repeatable = request.query_params, sorted(known), set(repeatable)
    known_text = (
        _t("Known parameters: %(names)s.") % {"names": ", ".join(known)}
        if known
        else _t("This address has no parameters.")
    )
    errors = {}
    for name in names:
        values = {"name": name, "known": known_text}
        if name not in known:
            text = _t("%(name)r is not a known parameter. %(known)s") % values
            errors[name] = ErrorDetail(text, ErrorCode.UNKNOWN_PARAMETER)
        elif name not in repeatable and len(names.getlist(name)) > 1:
            errors[name] = ErrorDetail(_t("%(name)r must be given only once.") % values, ErrorCode.REPEATED)
        elif not all(names.getlist(name)):
            text = _t("%(name)r must not be empty. Leave the parameter out to select all.") % values
            errors[name] = ErrorDetail(text, ErrorCode.BLANK)
    if errors:
        raise InvalidParameters(errors)


def _exists_with_slash(request: HttpRequest) -> bool:
    if request.path_info.endswith("/"):
        return False
    try:
        match = resolve(request.path_info + "/", getattr(request, "urlconf", None))
    except Resolver404:
        return False
    return getattr(match.func, "cls", None) is not UnknownAddressView
