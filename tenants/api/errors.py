"""The API's exceptions, and their responses: problem documents whose texts say how to correct the request."""

import logging
import math
import sys
from typing import Any

from django.conf import settings
from django.core.exceptions import (
    ObjectDoesNotExist,
    RequestDataTooBig,
    TooManyFieldsSent,
    TooManyFilesSent,
)
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import ValidationError as ModelError
from django.db import DataError, IntegrityError
from django.db.models import ProtectedError, RestrictedError
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views import defaults
from rest_framework import exceptions
from rest_framework.exceptions import APIException, ErrorDetail
from rest_framework.response import Response
from rest_framework.views import set_rollback

from tenants.api.constraint_errors import uniqueness_error
from tenants.api.error_items import Location, error_items, model_error_detail, overall_code, overall_detail
from tenants.api.explanations import explain_refusal
from tenants.api.problems import CONTENT_TYPE, ErrorSerializer, is_for_api, problem, problem_response
from tenants.infrastructure.concurrency import LimitReached
from tenants.infrastructure.error_codes import ErrorCode, error_code
from tenants.infrastructure.retry import DATABASE_LOST
from tenants.infrastructure.spreadsheets import TooManyFiles
from tenants.services.concurrency import limit_reached_text

__all__ = ["Conflict", "ErrorSerializer", "InvalidHeader", "InvalidParameters", "TooLarge", "Unavailable"]

logger = logging.getLogger(__name__)


class InvalidParameters(exceptions.ValidationError):
    """Query parameters of the request are wrong, whatever its method."""

    location: Location = "parameter"


class InvalidHeader(exceptions.ValidationError):
    """Headers of the request are wrong."""

    location: Location = "header"


class Conflict(APIException):
    """The request is valid and conflicts with the present state. `code` must be one with the status 409."""

    status_code = 409
    default_code = ErrorCode.RACED
    default_detail = gettext_lazy(
        "Another request changed the same object at the same time. Read it again and repeat the request."
    )


class Gone(APIException):
    """What the request refers to is not there any more; `code` says why."""

    status_code = 410
    default_code = ErrorCode.POSITION_DROPPED


class TooLarge(APIException):
    """The request's body is larger than the platform reads."""

    status_code = 413
    default_code = ErrorCode.TOO_LARGE


class Unavailable(APIException):
    """A server that is needed is unavailable; the same request can be repeated."""

    status_code = 503
    default_code = ErrorCode.UNAVAILABLE
    default_detail = gettext_lazy("The database does not answer. Try again in a few seconds.")
    wait = 5  # seconds, in Retry-After


class TooManyAtOnce(APIException):
    """Too many operations of one kind are in progress; the request can be repeated when one has ended."""

    status_code = 429
    default_code = ErrorCode.TOO_MANY_AT_ONCE

    def __init__(self, error: LimitReached) -> None:
        super().__init__(limit_reached_text(error))
        self.wait = error.retry_seconds  # in Retry-After


def answer_exception(exception: Exception, context: dict[str, Any]) -> Response | None:
    """Return the response to an exception in a view; None for an unexpected one, which Django answers with 500."""
    known = api_exception(exception)
    if known is None:
        return None
    set_rollback()
    if isinstance(known, Unavailable):
        # Expected and temporary: one line a request, no traceback.
        cause = exception.__cause__ or exception
        logger.warning("Answered 503: %s: %s", type(cause).__name__, cause)
    explain_refusal(known, context["view"])
    document = document_of(known, context["request"].method)
    return Response(document, document["status"], headers=_headers(known), content_type=CONTENT_TYPE)


def document_of(exception: APIException, method: str | None) -> dict[str, Any]:
    """Return the problem document of an exception in a request with this method."""
    if isinstance(exception, exceptions.ValidationError):
        usual: Location = "parameter" if method in ("GET", "HEAD") else "pointer"
        location: Location = getattr(exception, "location", usual)
        items = error_items(exception.detail, location)
        return problem(overall_code(items), overall_detail(items), items)
    return problem(_code_of(exception), str(exception.detail))


def api_exception(exc: Exception) -> APIException | None:
    """Return the API's exception for one of a model, the database or a service; None for an unexpected one."""
    if isinstance(exc, APIException):
        return exc
    if isinstance(exc, TooManyFiles):
        return Unavailable(" ".join(exc.messages), ErrorCode.BUSY)
    if isinstance(exc, ModelError):
        return exceptions.ValidationError(model_error_detail(exc))
    if isinstance(exc, LimitReached):
        return TooManyAtOnce(exc)
    if isinstance(exc, ObjectDoesNotExist | Http404):
        return exceptions.NotFound()
    if isinstance(exc, DjangoPermissionDenied):
        return exceptions.PermissionDenied()
    return _of_body(exc) or _of_database(exc)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400: a problem document for the API."""
    if not is_for_api(request.path_info):
        return defaults.bad_request(request, exception)
    return problem_response(ErrorCode.MALFORMED, ErrorCode.MALFORMED.meaning)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler404: a problem document for the API."""
    if not is_for_api(request.path_info):
        return defaults.page_not_found(request, exception)
    return problem_response(ErrorCode.UNKNOWN_ADDRESS, ErrorCode.UNKNOWN_ADDRESS.meaning)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500: a problem document for the API, and 503 while the database is unavailable."""
    if not is_for_api(request.path_info):
        return defaults.server_error(request)
    if isinstance(sys.exc_info()[1], DATABASE_LOST):
        text = str(Unavailable.default_detail)
        return problem_response(ErrorCode.UNAVAILABLE, text, retry_seconds=Unavailable.wait)
    return problem_response(ErrorCode.INTERNAL_ERROR, _("Internal error. Details are in the platform's log."))


def _of_body(exc: Exception) -> APIException | None:
    if isinstance(exc, RequestDataTooBig):
        return TooLarge(
            _("The request must not be larger than %(limit)d bytes. Send it in parts.")
            % {"limit": settings.DATA_UPLOAD_MAX_MEMORY_SIZE}
        )
    if isinstance(exc, TooManyFieldsSent | TooManyFilesSent):
        values = {"fields": settings.DATA_UPLOAD_MAX_NUMBER_FIELDS, "files": settings.DATA_UPLOAD_MAX_NUMBER_FILES}
        return exceptions.ParseError(
            _("A form must not have more than %(fields)d fields and %(files)d files.") % values
        )
    return None


def _of_database(exc: Exception) -> APIException | None:
    if isinstance(exc, ProtectedError | RestrictedError):
        return Conflict(_in_use(exc), ErrorCode.IN_USE)
    if isinstance(exc, IntegrityError):
        existing = uniqueness_error(exc)
        return exceptions.ValidationError(model_error_detail(existing)) if existing else Conflict()
    if isinstance(exc, DataError):
        # For example a NUL in a name of a lookup; the serializers reject everything else.
        return exceptions.ValidationError(
            _("The request contains a text or number that the database cannot store."), ErrorCode.NOT_STORABLE
        )
    return Unavailable() if isinstance(exc, DATABASE_LOST) else None


def _code_of(exception: APIException) -> ErrorCode:
    detail = exception.detail
    code = error_code(detail.code if isinstance(detail, ErrorDetail) else exception.default_code)
    # A code that a library added since: the status decides what a program can do.
    return code if code.status == exception.status_code else error_code(exception.default_code)


def _headers(exception: APIException) -> dict[str, str]:
    headers = {}
    if getattr(exception, "auth_header", None):
        headers["WWW-Authenticate"] = exception.auth_header  # type: ignore[attr-defined]
    if getattr(exception, "wait", None):
        headers["Retry-After"] = str(math.ceil(exception.wait))  # type: ignore[attr-defined]
    return headers


def _in_use(error: ProtectedError | RestrictedError) -> str:
    objects = error.protected_objects if isinstance(error, ProtectedError) else error.restricted_objects
    holders = sorted(objects, key=str)
    names = ", ".join(str(holder) for holder in holders[:5]) + (", …" if len(holders) > 5 else "")
    kind = holders[0]._meta.verbose_name_plural if holders else _("others")
    values = {"number": len(holders), "kind": kind, "names": names}
    return _("It is in use by %(number)d %(kind)s (%(names)s). Change or remove them first.") % values
