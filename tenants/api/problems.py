"""Problem documents (RFC 9457): the body of every response with an error, from every layer."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.utils import translation
from rest_framework import serializers

from tenants.infrastructure.error_codes import ErrorCode

CONTENT_TYPE = "application/problem+json"
ERROR_CODES = [(code.value, code.value) for code in ErrorCode]


class ErrorItemSerializer(serializers.Serializer):
    """One error, with its place in the request: a member of the body, a parameter or a header."""

    pointer = serializers.CharField(
        required=False, help_text="JSON Pointer (RFC 6901) to the member of the body, for example `#/components/0/key`."
    )
    parameter = serializers.CharField(required=False, help_text="Name of the query parameter.")
    header = serializers.CharField(required=False, help_text="Name of the header.")
    code = serializers.ChoiceField(choices=ERROR_CODES, help_text="The cause, for programs.")
    detail = serializers.CharField(help_text="The error in words, with what is allowed.")


class ErrorSerializer(serializers.Serializer):
    """The body of every 4xx and 5xx response: a problem document (RFC 9457)."""

    type = serializers.CharField(help_text="Address of the page that describes the code.")
    title = serializers.CharField(help_text="The meaning of the code in words.")
    status = serializers.IntegerField(help_text="The HTTP status.")
    code = serializers.ChoiceField(choices=ERROR_CODES, help_text="The cause, for programs: stable and not translated.")
    detail = serializers.CharField(help_text="The error in words, with what is allowed.")
    errors = ErrorItemSerializer(many=True, help_text="One entry for each wrong value; empty for other errors.")  # type: ignore[assignment]  # the member's name


def problem(code: ErrorCode, detail: str, errors: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    """Return the document that ErrorSerializer describes."""
    return {
        "type": f"{settings.PUBLIC_URL.rstrip('/')}/api/docs/errors/#{code}",
        "title": code.meaning,
        "status": code.status,
        "code": code.value,
        "detail": str(detail),
        "errors": list(errors),
    }


def problem_response(code: ErrorCode, detail: str, *, retry_seconds: int | None = None) -> JsonResponse:
    """Return a response with a problem document, for errors outside of a view."""
    headers = {} if retry_seconds is None else {"Retry-After": str(retry_seconds)}
    return JsonResponse(problem(code, detail), status=code.status, content_type=CONTENT_TYPE, headers=headers)


def is_for_api(path: str) -> bool:
    """Return whether the path is one of the API, whose clients expect JSON."""
    return "/api/" in path


def language_of(accept_language: str) -> str:
    """Return the supported language that the header Accept-Language prefers."""
    request = HttpRequest()
    request.META["HTTP_ACCEPT_LANGUAGE"] = accept_language
    return translation.get_language_from_request(request)
