"""Attributes of devices: names with a text, a number or a boolean."""

import math
import re
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

Attributes = dict[str, str | int | float | bool]

MAX_ATTRIBUTES = 32
MAX_NAME_LENGTH = 63
MAX_TEXT_LENGTH = 256
# Numbers that every JSON reader represents exactly.
MAX_INTEGER = 2**53 - 1
_NAME = re.compile(r"^[^\W\d_][\w.-]{0,62}$")
_NUMBER = re.compile(r"^-?[0-9]{1,40}(\.[0-9]{1,40})?$", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


def normalize(given: Any) -> Attributes:
    """Return the attributes in the order of their names. Raises ValueError that names the first invalid one."""
    if not isinstance(given, Mapping):
        raise ValueError(_("Attributes must be an object with names and values."))
    if len(given) > MAX_ATTRIBUTES:
        values = {"most": MAX_ATTRIBUTES, "number": len(given)}
        raise ValueError(_("There must be at most %(most)d attributes, not %(number)d.") % values)
    for name, value in given.items():
        check_name(name)
        _check_value(name, value)
    return dict(sorted(given.items()))


def validate_attributes(given: Any) -> None:
    """Raise ValidationError where `normalize` raises ValueError; a validator of model fields."""
    try:
        normalize(given)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def check_name(name: Any) -> None:
    """Raise ValueError for a text that cannot be the name of an attribute."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(
            _(
                "%(name)r is not a valid name of an attribute; use letters, digits, hyphens, underscores and dots"
                " (63 at most), beginning with a letter."
            )
            % {"name": name}
        )


def values_of(text: str) -> list[str | int | float | bool]:
    """Return the values that a text in an address can stand for: the text, and the number or boolean it spells."""
    values: list[str | int | float | bool] = [text]
    if text in _BOOLEANS:
        values.append(_BOOLEANS[text])
    elif _NUMBER.match(text) and math.isfinite(float(text)):
        values.append(float(text) if "." in text or abs(int(text)) > MAX_INTEGER else int(text))
    return values


def _check_value(name: str, value: Any) -> None:
    if isinstance(value, bool) or _is_exact(value):
        return
    if isinstance(value, str) and 0 < len(value) <= MAX_TEXT_LENGTH and value.isprintable():
        return
    raise ValueError(
        _(
            "The attribute %(name)s must be a text of 1 to %(most)d printable characters, a number or a boolean, not"
            " %(value).80r."
        )
        % {"name": name, "most": MAX_TEXT_LENGTH, "value": value}
    )


def _is_exact(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    return isinstance(value, float) and math.isfinite(value)
