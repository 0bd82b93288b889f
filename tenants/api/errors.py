"""The API's errors: one shape, and texts that say how to correct the request.

`{"type": "validation_error" | "client_error" | "server_error", "errors": [{"code", "detail", "attr"}]}`; `attr`
names the invalid member or parameter, if it is one.
"""

import logging
import sys

from django.conf import settings
from django.core.exceptions import (
    NON_FIELD_ERRORS,
    ObjectDoesNotExist,
    RequestDataTooBig,
    TooManyFieldsSent,
    TooManyFilesSent,
)
from django.core.exceptions import ValidationError as ModelError
from django.db import DataError, IntegrityError
from django.db.models import ProtectedError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views import defaults
from drf_standardized_errors.handler import ExceptionHandler
from rest_framework import exceptions, serializers
from rest_framework.exceptions import APIException
from rest_framework.fields import get_error_detail
from rest_framework.response import Response

from tenants.infrastructure.concurrency import LimitReached
from tenants.infrastructure.retry import DATABASE_LOST
from tenants.infrastructure.spreadsheets import TooManyFiles
from tenants.services.concurrency import limit_reached_text
from tenants.services.quotas import QuotaExceeded

logger = logging.getLogger(__name__)


class Conflict(APIException):
    """The request is valid and conflicts with the present state."""

    status_code = 409
    default_code = "conflict"
    default_detail = gettext_lazy(
        "Another request changed the same object at the same time. Read it again and repeat the request."
    )


class Gone(APIException):
    """What the request refers to is not there any more; `code` says why."""

    status_code = 410
    default_code = "gone"


class TooLarge(APIException):
    """The request's body is larger than the platform reads."""

    status_code = 413
    default_code = "too_large"


class Unavailable(APIException):
    """A server that is needed is unavailable; the same request can be repeated."""

    status_code = 503
    default_code = "unavailable"
    default_detail = gettext_lazy("The database does not answer. Try again in a few seconds.")
    wait = 5  # seconds, in Retry-After


class TooManyAtOnce(APIException):
    """Too many operations of one kind are in progress; the request can be repeated when one has ended."""

    status_code = 429
    default_code = "too_many_at_once"

    def __init__(self, error: LimitReached) -> None:
        super().__init__(limit_reached_text(error))
        self.wait = error.retry_seconds  # in Retry-After


class ApiErrorHandler(ExceptionHandler):
    """Converts exceptions of models and the database into exceptions of the API."""

    def convert_known_exceptions(self, exc: Exception) -> Exception:
        """Convert exceptions of services into exceptions of the API."""
        if isinstance(exc, TooManyFiles):
            return Unavailable(" ".join(exc.messages))
        if isinstance(exc, QuotaExceeded):
            return Conflict(exc.message, "quota_exceeded")
        if isinstance(exc, ModelError):
            return exceptions.ValidationError(model_error_detail(exc))
        if isinstance(exc, LimitReached):
            return TooManyAtOnce(exc)
        if isinstance(exc, ProtectedError):
            return Conflict(_in_use(exc))
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
        if isinstance(exc, IntegrityError):
            return Conflict()
        if isinstance(exc, DataError):
            # For example a NUL in a name of a lookup; the serializers reject everything else.
            return exceptions.ValidationError(
                _("The request contains a text or number that the database cannot store.")
            )
        if isinstance(exc, DATABASE_LOST):
            return Unavailable()
        if isinstance(exc, ObjectDoesNotExist):
            return exceptions.NotFound()
        return super().convert_known_exceptions(exc)

    def report_exception(self, exc: exceptions.APIException, response: Response) -> None:
        """Log the exception."""
        if isinstance(exc, Unavailable):
            # Expected and temporary: one line a request, no traceback.
            logger.warning("Answered 503: %s: %s", type(self.exc).__name__, self.exc)
        else:
            super().report_exception(exc, response)


class ErrorItemSerializer(serializers.Serializer):
    """One error."""

    code = serializers.CharField(help_text="A code for programs, for example `invalid` or `not_found`.")
    detail = serializers.CharField(help_text="The error in words, with what is allowed.")
    attr = serializers.CharField(
        allow_null=True, help_text="The invalid member or parameter, with dots between levels; null without one."
    )


class ErrorSerializer(serializers.Serializer):
    """The body of every 4xx and 5xx response."""

    type = serializers.CharField(help_text="`validation_error`, `client_error` or `server_error`.")
    errors = ErrorItemSerializer(many=True)  # type: ignore[assignment]  # the member's name


def model_error_detail(error: ModelError) -> list[exceptions.ErrorDetail] | dict[str, list[exceptions.ErrorDetail]]:
    """Return a model's ValidationError as REST framework's detail; errors without a field are `non_field_errors`."""
    detail = get_error_detail(error)
    if isinstance(detail, dict) and NON_FIELD_ERRORS in detail:
        detail["non_field_errors"] = detail.pop(NON_FIELD_ERRORS)
    return detail


def body(status: int, code: str, detail: str) -> dict[str, object]:
    """Return a body in the error shape, for responses that are sent before a view is called."""
    kind = "client_error" if status < 500 else "server_error"
    return {"type": kind, "errors": [{"code": code, "detail": detail, "attr": None}]}


def is_for_api(request: HttpRequest) -> bool:
    """Return whether the address is one of the API, whose clients expect JSON."""
    return "/api/" in request.path_info


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400: JSON for the API."""
    if not is_for_api(request):
        return defaults.bad_request(request, exception)
    return JsonResponse(body(400, "bad_request", _("The request cannot be read.")), status=400)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500: JSON for the API, and 503 while the database is unavailable."""
    if not is_for_api(request):
        return defaults.server_error(request)
    if isinstance(sys.exc_info()[1], DATABASE_LOST):
        answer = JsonResponse(body(503, "unavailable", str(Unavailable.default_detail)), status=503)
        answer["Retry-After"] = str(Unavailable.wait)
        return answer
    return JsonResponse(body(500, "error", _("Internal error. Details are in the platform's log.")), status=500)


def _in_use(error: ProtectedError) -> str:
    holders = sorted(error.protected_objects, key=str)
    names = ", ".join(str(holder) for holder in holders[:5]) + (", …" if len(holders) > 5 else "")
    kind = holders[0]._meta.verbose_name_plural if holders else _("others")
    values = {"number": len(holders), "kind": kind, "names": names}
    return _("It is in use by %(number)d %(kind)s (%(names)s). Change or remove them first.") % values
