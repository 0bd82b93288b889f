"""Where a value is in a message: dotted (`value.temp`) or, with a leading slash, a JSON Pointer (RFC 6901)."""

import re
from typing import Any

Path = tuple[str, ...]
MISSING = object()

_ARRAY_INDEX = re.compile(r"^(?:0|[1-9][0-9]{0,8})$")
_BAD_ESCAPE = re.compile(r"~(?![01])")


def parse(text: str) -> Path:
    """The path's reference tokens. Raises ValueError, saying what is wrong with it."""
    if text.startswith("/"):
        if _BAD_ESCAPE.search(text):
            raise ValueError(f"{text!r} is no JSON Pointer: ~ must be followed by 0 or 1.")
        return tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/"))
    tokens = tuple(text.split("."))
    if not all(tokens):
        raise ValueError(f"{text!r} is no path: it is empty or has an empty part between its dots.")
    return tokens


def find(document: Any, path: Path) -> Any:
    """The value at the path, or MISSING. In an array a token is an index from 0."""
    value = document
    for token in path:
        if isinstance(value, dict):
            value = value.get(token, MISSING)
        elif isinstance(value, list) and _ARRAY_INDEX.match(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return MISSING
        if value is MISSING:
            return MISSING
    return value
