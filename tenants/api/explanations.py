"""Errors of REST framework in the project's words: the name of the field, the value that came, and what is allowed."""

import re
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from rest_framework import exceptions, serializers
from rest_framework.exceptions import APIException, ErrorDetail
from rest_framework.fields import Field, empty

from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.error_values import shown

_PLACEHOLDER = re.compile(r"\\\{[^}]*\\\}")


def explain_refusal(exception: APIException, view: Any) -> None:
    """Add what a view accepts to the text of an exception about the method or a content type."""
    if isinstance(exception, exceptions.MethodNotAllowed):
        values = {"method": view.request.method, "allowed": ", ".join(view.allowed_methods) or "–"}
        exception.detail = _renamed(exception, _("%(method)s is not allowed here. Allowed: %(allowed)s.") % values)
    elif isinstance(exception, exceptions.UnsupportedMediaType):
        kinds = ", ".join(parser.media_type for parser in view.get_parsers())
        values = {"sent": view.request.content_type or "–", "allowed": kinds}
        text = _("Unsupported media type %(sent)r. Content-Type must be: %(allowed)s.")
        exception.detail = _renamed(exception, text % values)
    elif isinstance(exception, exceptions.NotAcceptable):
        kinds = ", ".join(renderer.media_type for renderer in view.get_renderers())
        exception.detail = _renamed(exception, _("Accept must allow: %(allowed)s.") % {"allowed": kinds})


def explain(fields: Mapping[str, Field], data: Any, detail: Any) -> Any:
    """Return the detail of a ValidationError of a serializer with these fields, which got this data."""
    if not isinstance(detail, Mapping):
        return detail
    return {name: _of_member(fields.get(name), name, data, errors) for name, errors in detail.items()}


def _of_member(field: Field | None, name: str, data: Any, errors: Any) -> Any:
    if field is None:
        return [_of_whole(data, error) for error in errors] if isinstance(errors, list) else errors
    value = field.get_value(data) if isinstance(data, Mapping) else empty
    return _of_field(field, name, value, errors)


def _of_whole(data: Any, error: Any) -> Any:
    if isinstance(data, Mapping) or getattr(error, "code", "") != "invalid":
        return error
    text = _("The value must be a JSON object, not %(value)s.")
    return ErrorDetail(text % {"value": shown(data)}, ErrorCode.INVALID_TYPE)


def _of_field(field: Field, name: str, value: Any, errors: Any) -> Any:
    if isinstance(errors, Mapping):
        child = getattr(field, "child", None)
        if not isinstance(field, serializers.ListField | serializers.DictField) or child is None:
            return errors  # a nested serializer, which has explained them
        return {key: _of_field(child, name, _part(value, key), inner) for key, inner in errors.items()}
    return [_of_error(field, name, value, error) for error in errors]


def _part(value: Any, key: Any) -> Any:
    try:
        return value[key]
    except (LookupError, TypeError):
        return empty


def _of_error(field: Field, name: str, value: Any, error: Any) -> Any:
    if not isinstance(error, ErrorDetail) or not _is_of_library(field, error):
        return error
    limit = getattr(field, str(error.code), None)
    values = {"name": name, "value": shown(value), "limit": limit}
    if error.code in ("invalid", "not_a_list", "not_a_dict", "incorrect_type"):
        return ErrorDetail(type_refusal(field) % values, _type_code(field, value))
    if error.code == "invalid_choice":
        choices = ", ".join(str(choice) for choice in getattr(field, "choices", ()))
        text = _("%(name)r must be one of %(choices)s, not %(value)s.")
        return ErrorDetail(text % {**values, "choices": choices}, error.code)
    text = _of_code(str(error.code), value)
    return ErrorDetail(text % values, error.code) if text else error


def _is_of_library(field: Field, error: ErrorDetail) -> bool:
    """Return whether the text is REST framework's own, and not one of the project."""
    for kind in type(field).__mro__:
        template = getattr(kind, "default_error_messages", {}).get(error.code)
        if template is not None and kind.__module__.startswith("rest_framework."):
            pattern = _PLACEHOLDER.sub(".*", re.escape(str(template)))
            return re.fullmatch(pattern, str(error), re.DOTALL) is not None
    return False


def _of_code(code: str, value: Any) -> str:
    is_list = isinstance(value, list | dict)
    texts = {
        "required": _("%(name)r is required."),
        "null": _("%(name)r must not be null."),
        "blank": _("%(name)r must not be empty."),
        "empty": _("%(name)r must not be empty."),
        "max_length": _("%(name)r must have at most %(limit)s entries.")
        if is_list
        else _("%(name)r must have at most %(limit)s characters."),
        "min_length": _("%(name)r must have at least %(limit)s entries.")
        if is_list
        else _("%(name)r must have at least %(limit)s characters."),
        "max_value": _("%(name)r must be at most %(limit)s, not %(value)s."),
        "min_value": _("%(name)r must be at least %(limit)s, not %(value)s."),
        "max_string_length": _("%(name)r has too many digits."),
        "overflow": _("%(name)r is beyond the range of values that can be stored."),
    }
    return texts.get(code, "")


def type_refusal(field: Field) -> str:
    """Return the text of an error that names the type of a field; its placeholders are `name` and `value`."""
    texts: tuple[tuple[Any, str], ...] = (
        (serializers.BooleanField, _("%(name)r must be true or false, not %(value)s.")),
        (serializers.UUIDField, _("%(name)r must be a UUID, not %(value)s.")),
        (serializers.IntegerField, _("%(name)r must be a whole number, not %(value)s.")),
        ((serializers.FloatField, serializers.DecimalField), _("%(name)r must be a number, not %(value)s.")),
        ((serializers.ListField, serializers.ManyRelatedField), _("%(name)r must be a list, not %(value)s.")),
        ((serializers.DictField, serializers.Serializer), _("%(name)r must be an object, not %(value)s.")),
        (serializers.PrimaryKeyRelatedField, _("%(name)r must be an id, a whole number, not %(value)s.")),
        (serializers.SlugRelatedField, _("%(name)r must be a text, not %(value)s.")),
        (serializers.IPAddressField, _("%(name)r must be an IP address, not %(value)s.")),
        (serializers.CharField, _("%(name)r must be a text, not %(value)s.")),
        (serializers.FileField, _("%(name)r must be a file.")),
    )
    return next((text for kinds, text in texts if isinstance(field, kinds)), _("%(name)r cannot be %(value)s."))


def _type_code(field: Field, value: Any) -> ErrorCode:
    is_of_format = isinstance(field, serializers.UUIDField | serializers.IPAddressField) and isinstance(value, str)
    return ErrorCode.INVALID_FORMAT if is_of_format else ErrorCode.INVALID_TYPE


def _renamed(exception: APIException, text: str) -> Any:
    code = exception.detail.code if isinstance(exception.detail, ErrorDetail) else exception.default_code
    return ErrorDetail(text, code)
