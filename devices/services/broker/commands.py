"""Commands as devices are sent them: JSON for firmware of version 1, a compact JWS for those that sign with version 2.

A command's JWS is signed with the device's own key and says what it is in its header (`typ`), so that neither a
command is taken for a message of the device nor the other way round. It names the device and the time.
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
    """A command to the device, with an id of its own and the time of now."""
    return {
        "command": name,
        "id": str(uuid4()),
        "device_uuid": str(uuid),
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **members,
    }


def encode(command: Mapping[str, Any]) -> bytes:
    """The command for a device that signs with version 1, which verifies nothing."""
    return json.dumps(command, separators=(",", ":")).encode()


def sign(command: Mapping[str, Any], key: bytes, version: int) -> bytes:
    """The command for a device that signs with version 2; `version` is the key's, its `kid`."""
    header = encode({"alg": "HS256", "kid": str(version), "typ": TYPE})
    signed = _base64url(header) + b"." + _base64url(encode(command))
    return signed + b"." + _base64url(hmac.digest(key, signed, hashlib.sha256))


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
