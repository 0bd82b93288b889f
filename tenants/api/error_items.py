"""The errors of a validation as the entries of a problem document, each with its place in the request."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from django.core.exceptions import NON_FIELD_ERRORS
from django.core.exceptions import ValidationError as ModelError
from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail
from rest_framework.fields import get_error_detail

from tenants.infrastructure.error_codes import ErrorCode, error_code

# The part of a request that is wrong.
Location = Literal["pointer", "parameter", "header"]
WHOLE = "non_field_errors"
_IN_DETAIL = 3


def model_error_detail(error: ModelError) -> list[ErrorDetail] | dict[str, list[ErrorDetail]]:
    """Return a model's ValidationError as REST framework's detail; errors without a field are `non_field_errors`."""
    for errors in error.error_dict.values() if hasattr(error, "error_dict") else (error.error_list,):
        for one in errors:
            _explain_uniqueness(one)
    detail = get_error_detail(error)
    if isinstance(detail, dict) and NON_FIELD_ERRORS in detail:
        detail[WHOLE] = detail.pop(NON_FIELD_ERRORS)
    return detail


def error_items(detail: Any, location: Location) -> list[dict[str, str]]:
    """Return the entries of an exception's detail: of nested members, of a list, or of one text."""
    return list(_items(detail, location, ()))


def overall_code(items: Sequence[Mapping[str, str]]) -> ErrorCode:
    """Return the code of the document: `invalid`, or the code of the entries where all have another status than 400."""
    codes = [ErrorCode(item["code"]) for item in items]
    if not codes or codes[0].status == 400 or any(code.status != codes[0].status for code in codes):
        return ErrorCode.INVALID
    return codes[0]


def overall_detail(items: Sequence[Mapping[str, str]]) -> str:
    """Return the first entries in words."""
    texts = list(dict.fromkeys(item["detail"] for item in items))
    return " ".join(texts[:_IN_DETAIL]) + (" …" if len(texts) > _IN_DETAIL else "")


def _items(detail: Any, location: Location, path: tuple[str, ...]) -> Iterator[dict[str, str]]:
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            yield from _items(inner, location, path if name == WHOLE else (*path, str(name)))
    elif isinstance(detail, list | tuple):
        for number, inner in enumerate(detail):
            is_text = isinstance(inner, str)
            yield from _items(inner, location, path if is_text else (*path, str(number)))
    else:
        code = error_code(getattr(detail, "code", None))
        yield {**_place(location, path), "code": code.value, "detail": str(detail)}


def _place(location: Location, path: tuple[str, ...]) -> dict[str, str]:
    if location == "pointer":
        # RFC 6901: ~ and / are escaped within a name, and the rest as in any URI's fragment.
        names = [quote(name.replace("~", "~0").replace("/", "~1"), safe="~") for name in path]
        return {"pointer": "/".join(["#", *names])}
    return {location: path[0]} if path else {}


def _explain_uniqueness(error: ModelError) -> None:
    """Name the fields as the API does instead of their labels."""
    if error.code in ("unique", "unique_together") and error.params and "model_class" in error.params:
        kind = error.params["model_class"]._meta.verbose_name
        values = {"kind": kind, "fields": ", ".join(error.params["unique_check"])}
        error.message, error.params = _("There is already a %(kind)s with the same %(fields)s.") % values, None
