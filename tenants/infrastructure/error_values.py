"""Values of JSON as the texts of errors show them."""

import json
import math
from typing import Any

_SHOWN_CHARACTERS = 100
_TOO_LARGE = "a number beyond the range of 64-bit floats"


def shown(value: Any) -> str:
    """Return a value as an error shows it: shortened, and JSON in its own words instead of Python's."""
    if isinstance(value, float) and not math.isfinite(value):
        return _TOO_LARGE
    text = repr(value) if not _is_json(value) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | list | tuple | dict)
