"""Faults of payloads and timestamps in the sender's terms: what came, and what to change. Pure.

Only refused messages come here. The parsers' own messages name positions and types of Python, which a sender does not
see.
"""

import re

# First bytes of formats that are sent instead of JSON.
_MAGIC = (
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"\x78\x9c", "is compressed with zlib"),
    (b"\xff\xfe", "is UTF-16"),
    (b"\xfe\xff", "is UTF-16"),
    (b"\xef\xbb\xbf", "begins with a UTF-8 byte order mark"),
    (b"PK\x03\x04", "is a ZIP file"),
)
# A string, also one that does not end: from each of those the search would run to the end of the text.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
# What programs write for values that JSON does not have.
_WORDS = re.compile(r"(?<![\w.])(-?(?:nan|inf|infinity)|True|False|None|undefined|TRUE|FALSE|NULL|Null)(?![\w.])", re.I)
_FOR_WORDS = {"true": "true", "false": "false", "none": "null", "null": "null", "undefined": "null"}
_JSON_WORDS = frozenset({"true", "false", "null"})
_BARE_NAME = re.compile(r"[{,]\s*([A-Za-z_][\w.-]*)\s*:")
_LEADING_ZERO = re.compile(r"[:\[,]\s*(-?0[0-9][0-9.]*)")
_BARE_FRACTION = re.compile(r"[:\[,]\s*([-+]?\.[0-9]+|-?[0-9]+\.(?![0-9])|\+[0-9.]+)")
_DECIMAL_COMMA = re.compile(r":\s*(-?[0-9]+,[0-9]+)\s*[,}]")
_EXCERPT = 16
# The search for a fault reads no more than this.
_MAX_TEXT = 16 * 1024
_MAX_TIME = 64

_DIGITS = re.compile(r"\s*-?[0-9]+(?:\.[0-9]*)?\s*", re.ASCII)
# Seconds of the years in which a time in other units is recognized as one: 2000 to 2100.
_FROM_YEAR, _TO_YEAR = 946_684_800, 4_102_444_800
_NAMED_ZONE = re.compile(r"(.*?)\s*(?:\[[^\]]*\]|UTC|GMT|KST)\s*", re.I)


def json_fault(payload: bytes, error: ValueError) -> str:
    """Return what to change in a payload that is not JSON; the parser's own message where nothing is recognized."""
    if not payload.strip():
        return "it is empty"
    for magic, fault in _MAGIC:
        if payload.startswith(magic):
            return f"it {fault}. Send the text itself, in UTF-8"
    try:
        text = payload.decode()
    except UnicodeDecodeError as wrong:
        return _encoding_fault(payload, wrong)
    if "\x00" in text[:2]:
        return "it is UTF-16. Send it in UTF-8"
    if text.endswith("\x00"):
        return "it ends with a NUL byte. Send the length of the text, without the byte that ends it in memory"
    return _text_fault(text[:_MAX_TEXT]) or str(error)


def timestamp_fault(value: object, error: Exception | None = None) -> str:
    """Return what to change in a timestamp that cannot be read, with this error; empty where nothing is recognized."""
    if isinstance(value, str):
        if isinstance(error, OverflowError):
            return "in UTC it is outside of the years 1 to 9999"
        return _text_time_fault(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        for name, count in (("microseconds", 10**6), ("nanoseconds", 10**9)):
            if _FROM_YEAR * count <= value <= _TO_YEAR * count:
                return f"it is in {name}. Send seconds or milliseconds since 1970"
        return "it is outside of the years 1 to 9999. Send seconds or milliseconds since 1970"
    return ""


def _encoding_fault(payload: bytes, error: UnicodeDecodeError) -> str:
    place, byte = error.start, payload[error.start]
    if payload[:1] not in b'{[" \t\r\n' and payload.count(b"\x00") + sum(b < 9 for b in payload[:64]) > 0:
        return "it is binary. Send a JSON object, in UTF-8"
    fault = f"byte {place + 1} (0x{byte:02X}) is not UTF-8"
    readings = []
    for name, codec in (("Latin-1", "latin-1"), ("CP949", "cp949")):
        try:
            readings.append((name, payload[place : place + 2].decode(codec)[:1]))
        except UnicodeDecodeError:
            continue
    named = ", ".join(f"{letter!r} in {name}" for name, letter in readings if letter.isprintable())
    return f"{fault}{f' ({named})' if named else ''}. Encode the text as UTF-8, or write such characters as \\uXXXX"


def _text_fault(text: str) -> str:
    if not text.lstrip().startswith(("{", "[", '"')):
        return f"it begins with {_excerpt(text.strip())}, which is not a JSON object"
    outside = _STRING.sub('""', text)
    for word in _WORDS.findall(outside):
        if word not in _JSON_WORDS:
            right = _FOR_WORDS.get(word.lower(), "null")
            return f"JSON does not have {word}. Write {right}"
    if "'" in outside:
        return "names and strings must be in double quotes, and there are single ones"
    if match := _BARE_NAME.search(outside):
        return f"the name {match[1]} must be in double quotes"
    if match := _DECIMAL_COMMA.search(outside):
        return f"{match[1]} has a decimal comma; the decimal sign of JSON is a point"
    if match := _LEADING_ZERO.search(outside):
        return f"the number {match[1]} must not begin with 0. Send it as a string, if the zeros belong to it"
    if match := _BARE_FRACTION.search(outside):
        return f"the number {match[1]} must have digits before and after its point, and no plus sign"
    return _bracket_fault(outside)


def _bracket_fault(outside: str) -> str:
    if re.search(r",\s*[}\]]", outside):
        return "there is a comma before a closing bracket"
    if "//" in outside or "/*" in outside:
        return "JSON does not have comments"
    opened = outside.count("{") - outside.count("}"), outside.count("[") - outside.count("]")
    if max(opened) > 0 or outside.count('"') % 2:
        return "it ends in the middle. The device's buffer may be too small for the message"
    return ""


def _text_time_fault(value: str) -> str:
    if len(value) > _MAX_TIME:
        return "it is too long for a time"
    if _DIGITS.fullmatch(value):
        return "it is a Unix time in a string. Send it as a number, without quotes"
    if value != value.strip():
        return "it has blanks at its ends. Send it without them"
    if re.search(r":60(?:[.,][0-9]+)?(?![0-9:])", value):
        return "it has a leap second. Send second 59"
    if re.search(r"[T ]24:", value):
        return "hour 24 is hour 0 of the next day"
    if (match := _NAMED_ZONE.fullmatch(value)) and match[1]:
        return "the zone must be an offset. End it with Z or +00:00 instead of a name"
    if re.match(r"[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2,4}", value) or re.match(r"[0-9]{4}[./][0-9]", value):
        return "a date must be year, month and day with - between them: 2026-11-30"
    return ""


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…")
