"""Stage 1: topic and payload to a value; refuses what is malformed or too large. Pure."""

from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson

from .refusal import Refused, quote


class Kind(Enum):
    """What a topic carries."""

    TELEMETRY = "telemetry"
    BIRTH = "birth"
    WILL = "will"


# What JSON may begin with, besides an object.
_NO_TOKEN = frozenset({b" ", b"\t", b"\r", b"\n", b"[", b'"', b""})


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic's parts. `segment` (the tenant's slug or alias) and `component` belong to telemetry alone.

    `device` is the UUID as text, which version 2 messages repeat.
    """

    kind: Kind
    uuid: UUID
    segment: str = ""
    component: str = ""
    device: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.uuid))  # frozen, and this is the way to fill a field of it


# A device publishes on the same few topics all its life; bounded, so that a large fleet does not fill the memory.
@lru_cache(maxsize=8_192)
def parse_topic(topic: str) -> Topic:
    """The topic's parts. Raises Refused (`malformed`)."""
    match topic.split("/"):
        case ["telemetry", segment, uuid, component] | ["telemetry", segment, uuid, component, "status"] if component:
            return Topic(Kind.TELEMETRY, _uuid(uuid, topic), segment, component)
        case ["device", "birth", uuid]:
            return Topic(Kind.BIRTH, _uuid(uuid, topic))
        case ["device", "lwt", uuid] | ["device", "lwt", "status", uuid]:
            return Topic(Kind.WILL, _uuid(uuid, topic))
    raise Refused(
        "malformed",
        f"The topic {quote(topic, 200)} is none of telemetry/{{tenant}}/{{device_uuid}}/{{component}}, "
        "device/birth/{device_uuid} and device/lwt/{device_uuid}.",
    )


def segment_of(topic: str) -> str:
    """The tenant's segment of a telemetry topic, however the rest of it looks; else empty."""
    parts = topic.split("/", 2)
    return parts[1] if len(parts) > 1 and parts[0] == "telemetry" else ""


def check_size(payload: bytes, limit: int) -> None:
    """Refuse (`too_large`) a payload above `limit` bytes."""
    if len(payload) > limit:
        raise Refused("too_large", f"The payload has {len(payload)} bytes; at most {limit} are taken.")


def parse_object(payload: bytes) -> dict[str, Any]:
    """The JSON object in the payload. Raises Refused (`malformed`), saying where it is wrong."""
    try:
        document = orjson.loads(payload)
    except ValueError as error:
        raise Refused("malformed", f"The payload is not JSON (UTF-8, without NaN or Infinity): {error}") from error
    if not isinstance(document, dict):
        raise Refused("malformed", f"The payload is JSON, but a {type(document).__name__} instead of an object.")
    return document


def is_token(payload: bytes) -> bool:
    """Whether the payload claims to be a version 2 message: a compact token instead of a JSON object."""
    first = payload[:1]
    return first != b"{" and first not in _NO_TOKEN and payload.count(b".") == 2


def _uuid(text: str, topic: str) -> UUID:
    try:
        uuid = UUID(text)
    except ValueError:
        uuid = None
    # UUID() also takes braces, urn: and no hyphens: one device would have several topics.
    if uuid is None or str(uuid) != text.lower():
        raise Refused("malformed", f"{quote(text)} in the topic {quote(topic, 200)} is not a device UUID.")
    return uuid
