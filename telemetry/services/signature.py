"""Stage 3: who sent it. Versions 1 (HMAC inside the JSON) and 2 (a compact JWS). Pure.

The algorithm is always HMAC-SHA256 and the accepted versions come from the device's record; a message only
names its key. All comparisons are of bytes, in constant time, and of the encoded text, so that a signature has
exactly one spelling.
"""

import base64
import binascii
import hashlib
import hmac
import json
from functools import lru_cache
from typing import Any

# What json.dumps(…, sort_keys=True) uses, made once.
_canonical = json.JSONEncoder(sort_keys=True).encode


class BadToken(ValueError):
    """The token is not a valid version 2 message under the key; says why."""


def signed_text(payload: dict[str, Any]) -> bytes:
    """What version 1 signs: `{timestamp}|{canonical JSON without hmac}`."""
    signed = {key: value for key, value in payload.items() if key != "hmac"}
    # surrogatepass: json.dumps escapes everything, but the timestamp member is printed as it is
    return f"{signed.get('timestamp')}|{_canonical(signed)}".encode("utf-8", "surrogatepass")


def is_hmac_of(signature: str, text: bytes, secret: bytes) -> bool:
    """Whether the version 1 `signature` is that of the `signed_text` under the secret."""
    digest = base64.b64encode(hmac.digest(secret, text, hashlib.sha256))
    return hmac.compare_digest(digest, signature.encode("utf-8", "surrogatepass"))


def sign_hmac(payload: dict[str, Any], secret: str) -> str:
    """The version 1 signature: base64 of HMAC-SHA256 over the `signed_text`."""
    return base64.b64encode(hmac.digest(secret.encode(), signed_text(payload), hashlib.sha256)).decode()


def verify_hmac(payload: dict[str, Any], secret: str, signature: str) -> bool:
    """Whether the version 1 `signature` is the payload's (with or without its `hmac` member) under the secret."""
    return isinstance(signature, str) and is_hmac_of(signature, signed_text(payload), secret.encode())


def verify_jws(token: bytes, key: bytes) -> dict[str, Any]:
    """The signed object of a version 2 message. Raises BadToken for anything wrong with it."""
    return parse_claims(verified_payload(token, key))


def verified_payload(token: bytes, key: bytes) -> bytes:
    """The bytes that were signed, after the header and the signature were found right. Raises BadToken."""
    header, payload, signature = _parts(token)
    _header(header)
    digest = hmac.digest(key, header + b"." + payload, hashlib.sha256)
    if not hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"="), signature):
        raise BadToken("the signature does not match")
    return _decode(payload, "payload")


def unverified_payload(token: bytes) -> bytes:
    """What a token carries, whoever signed it: to be shown to a person, and for nothing else. Raises BadToken."""
    return _decode(_parts(token)[1], "payload")


def key_id(token: bytes) -> str:
    """The `kid` of a token that is not verified yet: only to choose the key. Raises BadToken."""
    kid = _header(_parts(token)[0]).get("kid")
    if not isinstance(kid, str):
        raise BadToken("the header has no kid, which names the key's version")
    return kid


def parse_claims(payload: bytes) -> dict[str, Any]:
    """The JSON object of a verified payload. Raises BadToken."""
    try:
        claims = json.loads(payload.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the signed payload is not JSON: {error}") from error
    if not isinstance(claims, dict):
        raise BadToken("the signed payload is not a JSON object")
    return claims


def _parts(token: bytes) -> tuple[bytes, bytes, bytes]:
    parts = token.split(b".")
    if len(parts) != 3:
        raise BadToken("a compact JWS has three parts with dots between them")
    return parts[0], parts[1], parts[2]


@lru_cache(maxsize=4096)
def _header(encoded: bytes) -> dict[str, Any]:
    """The header, whose algorithm may be HS256 only; a device's header is the same in all its messages."""
    try:
        header = json.loads(_decode(encoded, "header"))
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise BadToken("the header is not a JSON object")
    if header.get("alg") != "HS256":
        raise BadToken("the header's alg is not HS256, the only one that is taken")
    if "crit" in header or "b64" in header:
        raise BadToken("the header has members (crit, b64) that are not understood")
    return header


def _decode(encoded: bytes, part: str) -> bytes:
    try:
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise BadToken(f"the {part} is not base64url: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
