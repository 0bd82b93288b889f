"""Paths of values in a message: dotted (`value.temp`) or, with a leading slash, a JSON Pointer (RFC 6901)."""

import hashlib
import re
from functools import lru_cache
from typing import Any

Path = tuple[str, ...]
MISSING = object()

# Members of a telemetry message that the protocol itself reads: they are never measured values.
PROTOCOL_MEMBERS = frozenset(
    {
        "timestamp",
        "cpu_serial",
        "hardware_version",
        "firmware_version",
        "component_type",
        "instance_name",
        "device_uuid",
        "component",
        "boot",
        "seq",
        "session",
        "gateway",
        "hmac",
    }
)

# Registered claims of JSON Web Tokens (RFC 7519), which libraries add: values only where a metric has the path.
CLAIMS = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})

# The length of a series' name.
_NAME_LENGTH = 63
_DIGEST_LENGTH = 12
_CACHED_PATH_LENGTH = 128

_ARRAY_INDEX = re.compile(r"^(?:0|[1-9][0-9]{0,8})$", re.ASCII)
_BAD_ESCAPE = re.compile(r"~(?![01])")


def parse(text: str) -> Path:
    """Return the path's reference tokens. Raises ValueError with the reason."""
    if text.startswith("/"):
        if _BAD_ESCAPE.search(text):
            raise ValueError(f"{text!r} is not a valid JSON Pointer: ~ must be followed by 0 or 1.")
        return tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/"))
    tokens = tuple(text.split("."))
    if not all(tokens):
        raise ValueError(f"{text!r} is not a valid path: its parts between the dots must not be empty.")
    return tokens


def find(document: Any, path: Path) -> Any:
    """Return the value at the path, or MISSING. In an array a token is an index from 0."""
    value = document
    for token in path:
        if isinstance(value, dict):
            value = value.get(token, MISSING)
        elif isinstance(value, list) and (index := array_index(token)) is not None and index < len(value):
            value = value[index]
        else:
            return MISSING
        if value is MISSING:
            return MISSING
    return value


def array_index(token: str) -> int | None:
    """Return the index that the token is in an array, from 0; None if it is not an index."""
    return int(token) if _ARRAY_INDEX.match(token) else None


def pointer(path: Path) -> str:
    """Return the path as a JSON Pointer."""
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in path)


def format_path(path: Path) -> str:
    """Return the path in the form for people: dotted, or as a JSON Pointer if a part contains dots.

    `parse` reads it back.
    """
    dotted = all(token and "." not in token for token in path) and not path[0].startswith("/")
    return ".".join(path) if dotted else pointer(path)


def series_name(path: Path, taken: frozenset[str] = frozenset()) -> str:
    """Return the name of the series of an unmapped value.

    It is the path; a JSON Pointer if the path is the key of a metric (`taken`); and shortened, with a digest of the
    whole, if it is too long for the column or cannot be stored.
    """
    # Devices choose the paths: of a cache of long ones no one could say how large it becomes.
    is_short = sum(map(len, path)) <= _CACHED_PATH_LENGTH
    return _short_series_name(path, taken) if is_short else _series_name(path, taken)


# Devices send the same few names all the time.
@lru_cache(maxsize=4096)
def _short_series_name(path: Path, taken: frozenset[str]) -> str:
    return _series_name(path, taken)


def _series_name(path: Path, taken: frozenset[str]) -> str:
    name = format_path(path)
    if name in taken:
        name = pointer(path)
    if len(name) <= _NAME_LENGTH and name.isprintable():
        return name
    digest = hashlib.sha256("\0".join(path).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"{printable[: _NAME_LENGTH - _DIGEST_LENGTH - 1]}~{digest}"
