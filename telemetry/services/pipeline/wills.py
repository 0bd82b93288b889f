"""Step 4 for wills: a body counts as a will only where it says that the device is gone. Pure.

One topic for both states is a habit of firmware, so that the topic alone says nothing.
"""

from typing import Any

import orjson

from . import form
from .results import Refusal, Topic, quote

# Members that tell the state of the device, and the words by which they say that it is gone.
STATUS_MEMBERS = ("status", "device_status", "state", "online", "connected", "available")
GONE_WORDS = frozenset(
    {
        *("offline", "disconnected", "disconnect", "unavailable", "lost", "gone", "down", "dead", "closed"),
        *("false", "0"),
    }
)
_PRESENT_WORDS = frozenset({"online", "connected", "available", "ready", "alive", "up", "true", "1"})
_MAX_TEXT = 64
_NAMED = "offline, disconnected, lost, unavailable or false"
_BIRTH = "What says that the device is present belongs on device/birth/{uuid}, signed."


def parse_will(topic: Topic, payload: bytes, *, text_wills: bool) -> dict[str, Any]:
    """Return the members of a will; none of a will that is only a text, which `text_wills` allows.

    Raises Refusal: `malformed`, or `not_a_will` where the body does not say that the device is gone.
    """
    text = _text_of(payload)
    word = None if text is None else text.casefold()
    if word is not None and (text_wills or not word or word in GONE_WORDS or word in _PRESENT_WORDS):
        _check_text(topic, text or "", text_wills=text_wills)
        return {}
    message = form.parse_object(payload)
    if str(message.get("device_uuid", topic.uuid)).lower() != str(topic.uuid):
        raise Refusal("malformed", "The device_uuid in the payload must be the topic's.")
    _check_members(topic, message)
    return message


def _text_of(payload: bytes) -> str | None:
    """Return the text that is the whole body, without quotes; None for any other body."""
    if len(payload) > _MAX_TEXT:
        return None
    try:
        text = payload.decode().strip(" \t\r\n\0")
    except UnicodeDecodeError:
        return None
    return None if text.startswith(("{", "[")) else text.strip('"').strip()


def _check_text(topic: Topic, text: str, *, text_wills: bool) -> None:
    if text and text.casefold() not in GONE_WORDS:
        raise Refusal(
            "not_a_will", f"A will must say that the device is gone ({_NAMED}), not {quote(text)}. {_birth_of(topic)}"
        )
    if not text_wills:
        raise Refusal(
            "not_a_will",
            f'A will must be a JSON object that says {{"status": "OFFLINE"}}, not the text {quote(text)}. Let the '
            "hardware model of the device accept texts as wills if its firmware cannot send JSON.",
        )


def _check_members(topic: Topic, message: dict[str, Any]) -> None:
    members = [(name, message[name]) for name in STATUS_MEMBERS if message.get(name) is not None]
    if not members:
        raise Refusal(
            "not_a_will", 'A will must say that the device is gone: {"status": "OFFLINE"}. The message says nothing.'
        )
    for name, value in members:
        if not _says_gone(value):
            shown = value if isinstance(value, str) else orjson.dumps(value).decode()
            raise Refusal(
                "not_a_will",
                f"A will must say that the device is gone ({_NAMED}), and its {name} is {quote(shown)}. "
                f"{_birth_of(topic)}",
            )


def _says_gone(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in GONE_WORDS
    return isinstance(value, bool | int | float) and not value


def _birth_of(topic: Topic) -> str:
    return _BIRTH.replace("{uuid}", str(topic.uuid))
