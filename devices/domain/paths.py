"""Paths of values in a message: dotted (`value.temp`) or, with a leading slash, a JSON Pointer (RFC 6901).

A part of a dotted path may select: `list[name=P1].value` the first object in a list with this member, `tags.*.temp`
all members of an object or list.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

Path = tuple[str, ...]
MISSING = object()


class Wildcard(str):
    """A part of a path that stands for every member."""

    __slots__ = ()


class MemberSelector(str):
    """A part of a path that stands for the first object in a list with a member of this value: `[name=P1]`."""

    __slots__ = ("member", "value")

    member: str
    value: str

    def __new__(cls, member: str, value: str) -> "MemberSelector":
        """Return the part; its text is the one that `parse` reads."""
        made = super().__new__(cls, f"[{member}={value}]")
        made.member, made.value = member, value
        return made

    def choose(self, holder: Any) -> Any:
        """Return the object, or MISSING. Numbers, true and false are compared by their JSON text."""
        for one in holder if isinstance(holder, list) else ():
            found = one.get(self.member) if isinstance(one, dict) else None
            if found == self.value or (isinstance(found, int | float) and json.dumps(found) == self.value):
                return one
        return MISSING


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
# The selection in a part like list[name=P1].
_SELECTOR = re.compile(r"\[([^\[\]=]+)=([^\[\]]*)\]")


def parse(text: str) -> Path:
    """Return the path's reference tokens. Raises ValueError with the reason."""
    if text.startswith("/"):
        if _BAD_ESCAPE.search(text):
            raise ValueError(f"{text!r} is not a valid JSON Pointer: ~ must be followed by 0 or 1.")
        return tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/"))
    tokens = _split(text) if "[" in text else tuple(text.split("."))
    if not all(tokens):
        raise ValueError(f"{text!r} is not a valid path: its parts between the dots must not be empty.")
    if "[" not in text and "*" not in tokens:
        return tokens
    return tuple(part for token in tokens for part in _selecting(token))


def parse_entered(text: str) -> Path:
    """Return the reference tokens of a path that a person has entered.

    Raises ValueError also for a selection that is not complete, which `parse` takes for a part of a name.
    """
    path = parse(text)
    for token in () if text.startswith("/") else path:
        if not isinstance(token, MemberSelector) and "=" in token.partition("[")[2]:
            raise ValueError(
                f"{text!r} is not a valid path: a selection must have the form [member=value] and end its part;"
                " a name with brackets needs a JSON Pointer, such as /a[b=c]."
            )
    return path


def _selecting(token: str) -> Iterator[str]:
    match = _SELECTOR.search(token)
    if match is None or match.end() != len(token):
        yield Wildcard(token) if token == "*" else token  # noqa: S105 (a part of a path)
        return
    if match.start():
        yield token[: match.start()]
    yield MemberSelector(match[1], match[2])


def _split(text: str) -> Path:
    """Return the parts between the dots outside of selections."""
    inside = {place for match in _SELECTOR.finditer(text) for place in range(*match.span())}
    dots = [place for place, letter in enumerate(text) if letter == "." and place not in inside]
    return tuple(text[begin + 1 : end] for begin, end in pairwise([-1, *dots, len(text)]))


def is_selecting(path: Path) -> bool:
    """Return whether the path has a part that selects."""
    return any(isinstance(token, Wildcard | MemberSelector) for token in path)


def select(document: Any, path: Path) -> Iterator[tuple[Path, Path, Any]]:
    """Yield (members that wildcards stand for, path without selecting parts, value) of each value at the path."""
    index = next((number for number, token in enumerate(path) if isinstance(token, Wildcard | MemberSelector)), None)
    if index is None:
        value = find(document, path)
        if value is not MISSING:
            yield (), path, value
        return
    holder, token = find(document, path[:index]), path[index]
    named: Iterable[tuple[str, Any]] = ()
    if isinstance(holder, dict):
        named = holder.items() if isinstance(token, Wildcard) else ()
    elif isinstance(holder, list):
        numbered = ((str(number), one) for number, one in enumerate(holder))
        chosen = token.choose(holder) if isinstance(token, MemberSelector) else None
        named = numbered if chosen is None else ((number, one) for number, one in numbered if one is chosen)
    for name, below in named:
        for members, plain, value in select(below, path[index + 1 :]) if path[index + 1 :] else [((), (), below)]:
            matched = (name, *members) if isinstance(token, Wildcard) else members
            yield matched, (*path[:index], name, *plain), value


def find(document: Any, path: Path) -> Any:
    """Return the value at the path, or MISSING. In an array a token is an index from 0."""
    value = document
    for token in path:
        if isinstance(value, dict):
            value = value.get(token, MISSING)
        elif isinstance(token, MemberSelector):
            value = token.choose(value)
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
    dotted = all(isinstance(token, MemberSelector) or (token and "." not in token) for token in path)
    if not dotted or path[0].startswith("/") or (not is_selecting(path) and _is_ambiguous(path)):
        return pointer(path)
    return ".".join(path)


def _is_ambiguous(path: Path) -> bool:
    """Return whether a path that does not select would be read as one that does."""
    return "*" in path or _SELECTOR.search(".".join(path)) is not None


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
