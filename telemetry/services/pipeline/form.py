"""Step 1, form: the sizes and the syntax of topics and payloads. Pure."""

import json
import re
from array import array
from collections import Counter
from functools import lru_cache
from itertools import accumulate
from typing import Any
from uuid import UUID

import orjson

from devices.domain import paths
from devices.domain.specs import LimitSpec

from . import payload_faults
from .results import Refusal, Topic, TopicKind, quote, quote_json

# First bytes of JSON values other than objects, which begin with "{".
_NO_TOKEN = frozenset({b" ", b"\t", b"\r", b"\n", b"[", b'"', b""})
_UUID_LENGTH = 36
_UUID_DIGITS = 32
_STATUS_LEVELS = ("birth", "lwt")
_STATUS = ["device", "lwt", "status"]
# The deepest document that orjson writes.
MAX_NESTING = 254
# A string, also one that does not end: a payload with thousands of those would be searched from each of them again.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
# The step in depth of each bracket, as a signed byte; all other bytes are removed.
_BRACKETS = b"[{]}"
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
# A colon in a string can also be written so, which changes their number.
_ESCAPED_COLON = b"\\u003"
# As a number: `in` takes five times as long to find a byte string of one byte.
_BACKSLASH = ord("\\")

# Whole numbers beyond 64 bits, and some of 64, have so many digits. Without a match both JSON parsers read the same.
BEYOND_64_BITS = re.compile(rb"[0-9]{19}")
_BITS_64 = 2.0**63


def parse_topic(topic: str) -> Topic:
    """Return the topic's parts. Raises Refusal (`malformed`)."""
    match topic.split("/", 5):
        case ["telemetry", segment, uuid, device, component] if component and (child := canonical_uuid(device)):
            return Topic(TopicKind.TELEMETRY, _parse_uuid(uuid, topic), segment, component, child)
        case ["telemetry", segment, uuid, component] | ["telemetry", segment, uuid, component, "status"] if component:
            return Topic(TopicKind.TELEMETRY, _parse_uuid(uuid, topic), segment, component)
        case ["device", "birth", uuid]:
            return Topic(TopicKind.BIRTH, _parse_uuid(uuid, topic))
        case ["device", "lwt", uuid] | ["device", "lwt", "status", uuid]:
            return Topic(TopicKind.WILL, _parse_uuid(uuid, topic))
    raise Refusal(
        "malformed",
        f"The topic must be telemetry/{{tenant}}/{{device_uuid}}/{{component}}, device/birth/{{device_uuid}}, "
        "device/lwt/{device_uuid}, or telemetry/{tenant}/{gateway_uuid}/{device_uuid}/{component} of a gateway, "
        f"not {quote(topic, 200)}.",
    )


def publisher_of(topic: str) -> UUID | None:
    """Return the device whose account may publish on the topic, however malformed the topic is; None: no device's.

    The broker's topic rules bind this level to the device, and no other one.
    """
    return canonical_uuid(publisher_text(topic))


def publisher_text(topic: str) -> str:
    """Return the level of the topic where `publisher_of` reads the UUID, whatever is there; empty: none."""
    # Each message of a burst comes here: matching a pattern takes twice as long.
    levels = topic.split("/", 4)
    if len(levels) < 3 or (levels[0] != "telemetry" and (levels[0] != "device" or levels[1] not in _STATUS_LEVELS)):
        return ""
    return levels[3] if levels[:3] == _STATUS and len(levels) > 3 else levels[2]


def segment_of(topic: str) -> str:
    """Return the second level of a telemetry topic, even of a malformed one; empty for any other topic."""
    parts = topic.split("/", 2)
    return parts[1] if len(parts) > 1 and parts[0] == "telemetry" else ""


def check_size(payload: bytes, maximum: int, limits: LimitSpec | None = None) -> None:
    """Raise Refusal (`too_large`) for a payload above `maximum` bytes, or above the tenant's own limit."""
    size = len(payload)
    if size > maximum:
        raise Refusal("too_large", f"The payload has {size} bytes; the maximum is {maximum}.")
    if limits is not None and limits.max_payload is not None and size > limits.max_payload:
        detail = f"The payload has {size} bytes; the tenant's max_payload is {limits.max_payload}."
        raise Refusal("too_large", detail, limit="max_payload")


def parse_object(payload: bytes, name: str = "payload") -> dict[str, Any]:
    """Return the JSON object in the payload, which refusals call `name`. Raises Refusal (`malformed`)."""
    document = load_object(payload, name)
    check_keys(payload, document)
    return document


def load_object(payload: bytes, name: str = "payload") -> dict[str, Any]:
    """Return the JSON object in the payload, of which `check_keys` must be called. Raises Refusal (`malformed`)."""
    check_nesting(payload)
    try:
        document = orjson.loads(payload)
    except ValueError as error:
        fault = payload_faults.json_fault(payload, error)
        raise Refusal("malformed", f"The {name} must be a JSON object in UTF-8: {fault}.") from error
    if not isinstance(document, dict):
        raise Refusal("malformed", f"The {name} must be a JSON object, not {quote_json(document)}.")
    return document


def check_nesting(payload: bytes) -> None:
    """Raise Refusal (`malformed`) for JSON that is nested too deeply.

    It is not parsed for that: the parser takes ten times as long for deep documents as for flat ones of the same size,
    and every function that visits the values longer still.
    """
    if payload.count(b"[") + payload.count(b"{") <= MAX_NESTING:
        return
    steps = array("b", _STRING.sub(b"", payload).translate(_STEPS, _NO_BRACKETS))
    if next(filter(MAX_NESTING.__lt__, accumulate(steps)), None) is not None:
        raise Refusal("malformed", f"The payload must not be nested more deeply than {MAX_NESTING} levels.")


def check_keys(payload: bytes, document: dict[str, Any]) -> None:
    """Raise Refusal (`malformed`) for an object with a repeated key: of its values only the last would be evaluated.

    `document` is the parsed payload. Each member has a colon, so a repeated key makes the document's colons fewer than
    the payload's; the exact check reads only payloads for which they differ.
    """
    if _BACKSLASH not in payload or _ESCAPED_COLON not in payload:
        colons = payload.count(b":")
        if colons == _usual_colons(document) or colons == orjson.dumps(document).count(b":"):
            return
    try:
        json.loads(payload, object_pairs_hook=_unique_members)
    except RecursionError as error:
        raise Refusal("malformed", "The payload is nested too deeply.") from error


def _usual_colons(document: dict[str, Any]) -> int:
    """Return the number of colons of a usual message, and never more than a JSON text of the document has: those of
    its members, of the members of `value`, and in the timestamp. A text of any other message takes longer to write.
    """
    colons, value, time = len(document), document.get("value"), document.get("timestamp")
    if value.__class__ is dict:
        colons += len(value)
    return colons + time.count(":") if time.__class__ is str else colons


def exact_number(number: float, source: bytes, path: paths.Path) -> float:
    """Return the number at the path of a message with this JSON text, a whole number beyond 64 bits included.

    `number` is the one that the fast parser has read.
    """
    if number.__class__ is not float or abs(number) < _BITS_64:
        return number
    document = _exact_document(source)
    return number if document is None else paths.find(document, path)


@lru_cache(maxsize=1)
def _exact_document(source: bytes) -> Any:
    """Return the document with its whole numbers, None where none is beyond 64 bits. Cached for values of a message."""
    return json.loads(source) if BEYOND_64_BITS.search(source) else None


def is_token(payload: bytes) -> bool:
    """Return whether the payload has the form of a version 2 message: a compact token instead of a JSON object."""
    first = payload[:1]
    return first != b"{" and first not in _NO_TOKEN and payload.count(b".") == 2


def _unique_members(members: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(members)
    if len(unique) < len(members):
        counts = Counter(name for name, _ in members)
        repeated = next(name for name, count in counts.items() if count > 1)
        raise Refusal("malformed", f"The key {quote(repeated)} occurs {counts[repeated]} times in one object.")
    return unique


def _parse_uuid(text: str, topic: str) -> UUID:
    uuid = canonical_uuid(text)
    if uuid is None:
        raise Refusal("malformed", f"{quote(text)} in the topic {quote(topic, 200)} is not a valid device UUID.")
    return uuid


def canonical_uuid(text: str) -> UUID | None:
    """Return the UUID of a text in the one form that topics have, in either case; None for any other text."""
    # UUID() accepts hyphens at other places too, so that one device would have several topics, and takes longer.
    if len(text) != _UUID_LENGTH or not text[8] == text[13] == text[18] == text[23] == "-":
        return None
    digits = text.replace("-", "")
    if len(digits) != _UUID_DIGITS or not (digits.isascii() and digits.isalnum()):
        return None  # int() would also accept underscores, blanks and digits of other scripts
    try:
        return UUID(int=int(digits, 16))
    except ValueError:
        return None
