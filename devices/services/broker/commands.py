"""Commands to devices: JSON for version 1 firmware, a compact JWS for devices with version 2 signatures.

A command's JWS is signed with the device's own key, and the header names its type (`typ`), so that a command cannot
pass for a message of the device or vice versa. It names the device and the time.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

COMMAND_TOPIC = "command/{slug}/{uuid}/request"
TYPE = "command+jws"


def compose(name: str, uuid: UUID, **members: Any) -> dict[str, Any]:
    """Return a command to the device, with a new id and the current time."""
    return {
        "command": name,
        "id": str(uuid4()),
        "device_uuid": str(uuid),
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **members,
    }


def encode(command: Mapping[str, Any]) -> bytes:
    """Return the command for a device with version 1 signatures, which verifies nothing."""
    return json.dumps(command, separators=(",", ":")).encode()


def sign(command: Mapping[str, Any], key: bytes, version: int) -> bytes:
    """Return the command for a device with version 2 signatures; `version` is the key's, its `kid`."""
    header = encode({"alg": "HS256", "kid": str(version), "typ": TYPE})
    signed = _base64url(header) + b"." + _base64url(encode(command))
    return signed + b"." + _base64url(hmac.digest(key, signed, hashlib.sha256))


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
