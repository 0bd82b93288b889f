"""Readable payloads: as text, or in hexadecimal where they are not text."""

import base64
import binascii
import codecs
import re
from dataclasses import dataclass

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

LIMIT = 64 * 1024  # bytes shown; the page shows the full size beside them
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_JWS = re.compile(r"^[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*$")


@dataclass(frozen=True, slots=True)
class ReadablePayload:
    """The shown part of a payload; `size` is its length in bytes, `signed` the content of a JWS."""

    text: str
    is_text: bool
    size: int
    cut: bool
    signed: str


def readable(payload: bytes | memoryview, limit: int = LIMIT) -> ReadablePayload:
    """Return the first `limit` bytes as UTF-8 text, or in hexadecimal where they are not text."""
    size, shown = len(payload), bytes(payload[:limit])
    text = _as_text(shown, cut=size > limit)
    if text is None:
        return ReadablePayload(shown.hex(" "), False, size, size > limit, "")
    return ReadablePayload(text, True, size, size > limit, "" if size > limit else _content_of_jws(text))


def render(payload: bytes | memoryview, limit: int = LIMIT) -> SafeString:
    """Return the payload as HTML."""
    return render_to_string("gwanje/payload.html", {"payload": readable(payload, limit)})


def _as_text(data: bytes, *, cut: bool) -> str | None:
    try:
        # A character that is cut at the limit is left out; it is not an error.
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _content_of_jws(text: str) -> str:
    match = _JWS.match(text)
    if match is None:
        return ""
    try:
        content = base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4))
    except (binascii.Error, ValueError):
        return ""
    return _as_text(content, cut=False) or ""
