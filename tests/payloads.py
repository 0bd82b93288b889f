"""Payloads of devices for tests, written from the protocol, not with the platform's own signer."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.factories import Registered


def timestamp(ago: float = 0.0) -> str:
    return (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()


def v1(device: Registered, value: Any, *, ago: float = 0.0, secret: str | None = None, **members: Any) -> bytes:
    """A version 1 message."""
    message = {"timestamp": timestamp(ago), "cpu_serial": device.device.cpu_serial, "value": value, **members}
    text = f"{message['timestamp']}|{json.dumps(message, sort_keys=True)}"
    digest = hmac.new((secret or device.secret).encode(), text.encode(), hashlib.sha256).digest()
    return json.dumps({**message, "hmac": base64.b64encode(digest).decode()}).encode()


def v2(
    device: Registered,
    value: Any,
    *,
    seq: int,
    boot: int = 1,
    component: str = "dht22",
    ago: float = 0.0,
    secret: str | None = None,
    kid: str | None = None,
    **members: Any,
) -> bytes:
    """A version 2 message."""
    message = {
        "timestamp": timestamp(ago),
        "cpu_serial": device.device.cpu_serial,
        "device_uuid": device.uuid,
        "component": component,
        "boot": boot,
        "seq": seq,
        "value": value,
        **members,
    }
    return token({k: v for k, v in message.items() if v is not ...}, secret or device.secret, kid or device.kid)


def token(message: dict[str, Any], secret: str, kid: str) -> bytes:
    """The message as a compact JWS."""
    header = {"alg": "HS256", "kid": kid, "typ": "telemetry+jws"}
    signed = b".".join(_b64(json.dumps(part).encode()) for part in (header, message))
    return signed + b"." + _b64(hmac.new(secret.encode(), signed, hashlib.sha256).digest())


def topic(device: Registered, component: str = "dht22", segment: str | None = None) -> str:
    return f"telemetry/{segment or device.tenant.slug}/{device.uuid}/{component}"


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
