"""Stage 3: who sent it. Versions 1 (HMAC inside the JSON) and 2 (a compact JWS). Pure.

The algorithm is always HMAC-SHA256 and the accepted versions come from the device's record; a message only
names its key. All comparisons are of bytes, in constant time, and of the encoded text, so that a signature has
exactly one spelling.
"""

import binascii
import hmac
import json
from collections.abc import Callable
from functools import lru_cache
from json import encoder
from typing import Any

_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")


class BadToken(ValueError):
    """The token is not a valid version 2 message under the key; says why."""


def _make_canonical() -> Callable[[Any], str]:
    """`json.dumps(…, sort_keys=True)`, which makes its encoder anew for each message: half of what it costs."""
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(sort_keys=True).encode
    escape = encoder.encode_basestring_ascii
    # No table of the objects that it is within: what was read from JSON holds no circles.
    encode = make(None, json.JSONEncoder().default, escape, None, ": ", ", ", True, False, True)
    return lambda value: "".join(encode(value, 0))


_canonical = _make_canonical()


def signed_text(payload: dict[str, Any]) -> bytes:
    """What version 1 signs: `{timestamp}|{canonical JSON without hmac}`."""
    signed = payload.copy()
    signed.pop("hmac", None)
    # surrogatepass: json.dumps escapes everything, but the timestamp member is printed as it is
    return f"{signed.get('timestamp')}|{_canonical(signed)}".encode("utf-8", "surrogatepass")


def is_hmac_of(signature: str, text: bytes, secret: bytes) -> bool:
    """Whether the version 1 `signature` is that of the `signed_text` under the secret."""
    digest = binascii.b2a_base64(hmac.digest(secret, text, "sha256"), newline=False)
    return hmac.compare_digest(digest, signature.encode("utf-8", "surrogatepass"))


def sign_hmac(payload: dict[str, Any], secret: str) -> str:
    """The version 1 signature: base64 of HMAC-SHA256 over the `signed_text`."""
    digest = hmac.digest(secret.encode(), signed_text(payload), "sha256")
    return binascii.b2a_base64(digest, newline=False).decode()


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
    digest = hmac.digest(key, token[: -len(signature) - 1], "sha256")
    # 32 bytes are 43 letters and a filler.
    if not hmac.compare_digest(binascii.b2a_base64(digest, newline=False)[:43].translate(_TO_URL), signature):
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
    try:
        header, payload, signature = token.split(b".")
    except ValueError:
        raise BadToken("a compact JWS has three parts with dots between them") from None
    return header, payload, signature


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
        return binascii.a2b_base64((encoded + b"=" * (-len(encoded) % 4)).translate(_FROM_URL), strict_mode=True)
    except binascii.Error as error:
        raise BadToken(f"the {part} is not base64url: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
