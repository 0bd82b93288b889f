"""Reading a request's body."""

import codecs
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NoReturn

from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail, ParseError, ValidationError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import JSONParser as BaseJSONParser
from rest_framework.parsers import get_encoding  # type: ignore[attr-defined]  # newer than its stubs
from rest_framework.request import Request

from tenants.infrastructure.error_codes import ErrorCode

_MOST_FAULTS = 20
# Only a number with a long exponent or many digits can be infinite as a 64-bit float.
_LONG_NUMBER = re.compile(r"[0-9][eE]\+?0*[0-9]{3}|[0-9]{300}")

_Fault = tuple[tuple[str, ...], str, ErrorCode]


class _RepeatedMembers(dict[str, Any]):
    """An object with members of the same name, of which the last is kept."""

    names: tuple[str, ...] = ()


class JSONParser(BaseJSONParser):
    """JSON of which every member counts: repeated names and infinite numbers are refused, with their places."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        """Return the parsed body. Raises ParseError and ValidationError."""
        encoding = get_encoding(parser_context or {})
        try:
            found = _load(codecs.getreader(encoding)(stream).read())
        except RecursionError as error:
            raise ParseError(_("The JSON is nested too deeply.")) from error
        except ValueError as error:
            raise ParseError(_("JSON parse error - %(fault)s") % {"fault": _fault_of(error, encoding)}) from error
        if found is None:
            raise ValidationError(_("The body must be a JSON object, not null."), ErrorCode.INVALID_TYPE)
        return found


def _load(text: str) -> Any:
    repeated: list[_RepeatedMembers] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        marked, counts = _RepeatedMembers(found), Counter(name for name, _value in pairs)
        marked.names = tuple(name for name in found if counts[name] > 1)
        repeated.append(marked)
        return marked

    found = json.loads(text, object_pairs_hook=members, parse_constant=_refuse_constant)
    is_suspect = repeated or _LONG_NUMBER.search(text)
    if is_suspect and (faults := list(islice(_faults(found, ()), _MOST_FAULTS))):
        raise ValidationError(_detail(faults))
    return found


def _faults(value: Any, path: tuple[str, ...]) -> Iterator[_Fault]:
    """Yield (path, text, code) of each repeated name and infinite number."""
    if isinstance(value, _RepeatedMembers):
        for name in value.names:
            text = _("The member %(name)r must be given only once in its object.") % {"name": name[:100]}
            yield (*path, name), text, ErrorCode.REPEATED
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _faults(one, (*path, name))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _faults(one, (*path, str(number)))
    elif isinstance(value, float) and math.isinf(value):
        text = _("%(name)r must be a number within the range of 64-bit floats.")
        yield path, text % {"name": ".".join(path)[:100]}, ErrorCode.OUT_OF_RANGE


def _detail(faults: list[_Fault]) -> dict[str, Any]:
    """Return the errors as nested members."""
    detail: dict[str, Any] = {}
    for path, text, code in faults:
        inner = detail
        for name in path:
            inner = inner.setdefault(name, {})
        inner.setdefault("non_field_errors", []).append(ErrorDetail(text, code))
    return detail


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(_("%(name)s is not a JSON value") % {"name": name})


def _fault_of(error: Exception, encoding: str) -> str:
    """Return the fault of a body in words that name no part of Python."""
    if isinstance(error, UnicodeError):
        return _("the text is not valid %(encoding)s") % {"encoding": encoding}
    if "integer string conversion" in str(error):
        return _("a number has more than %(count)d digits") % {"count": sys.get_int_max_str_digits()}
    return str(error)


class JSONErrorsNegotiation(BaseContentNegotiation):
    """Refusals are JSON whatever the client asks for: a browser's EventSource asks for text/event-stream alone."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """Return the parser of the request's content type."""
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type
