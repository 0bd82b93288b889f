"""Looking into signed messages with the protocol's formulas, and none of the code that makes them."""

import base64
import hmac
import json
from typing import Any


def opened(payload: bytes) -> dict[str, Any]:
    """Return the members of a message of either version, unverified; ValueError when it is neither."""
    if payload.startswith(b"{"):
        return json.loads(payload)
    _, body, _ = payload.split(b".")
    return json.loads(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4)))


def is_signed(payload: bytes, secret: str) -> bool:
    """Tell whether the message, of either version, has the right signature of `secret`."""
    try:
        message = opened(payload)
    except ValueError:
        return False
    if not isinstance(message, dict):
        return False
    if payload.startswith(b"{"):
        given = base64.b64decode(message.pop("hmac"))
        signed = f"{message['timestamp']}|{json.dumps(message, sort_keys=True)}".encode()
    else:
        signed, _, encoded = payload.rpartition(b".")
        given = base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    return hmac.digest(secret.encode(), signed, "sha256") == given
