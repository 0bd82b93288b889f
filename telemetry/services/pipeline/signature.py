"""Step 3, signature: the sender of a message. Versions 1 (HMAC inside the JSON) and 2 (a compact JWS). Pure.

The algorithm is always HMAC-SHA256, and the accepted versions come from the device's record; a message only names
its key. All comparisons are of bytes, in constant time, and of the encoded text, so that a signature has exactly
one spelling.
"""

import binascii
import hmac
import json
import re
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from json import encoder
from typing import Any, NamedTuple

from devices.domain.specs import DeviceSpec, KeySpec
from tenants.infrastructure.byte_bounded_cache import ByteBoundedCache

from . import form, signature_faults
from .results import Refusal, quote, quote_json

# (version) → the key's bytes, None where the key does not exist; may raise KeyUnavailable.
KeySource = Callable[[int], bytes | None]

_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
# HMAC's pads: a key with each byte XORed by a constant (RFC 2104).
_INNER_PAD, _OUTER_PAD = (bytes(byte ^ constant for byte in range(256)) for constant in (0x36, 0x5C))
_BLOCK_BYTES = 64
# A named tuple's own constructor does the same through a function in Python.
_new = tuple.__new__
_NEWLINE = "the token must not end with a newline or blank; send it without one (printf instead of echo)"
# The encoded header of a token: algorithm and key take some 40 bytes.
_MAX_HEADER = 1024
_COMMAND_TYPE = "command+jws"
# What senders call the signature besides hmac.
_NAMES_OF_HMAC = frozenset({"hmac", "signature", "sig", "mac", "hash"})
# `{"` in base64url.
_BEGIN_OF_HEADER = b"eyJ"
_TOKEN = re.compile(rb"\s*[A-Za-z0-9_=+/.-]+\s*")
# Key ids by the encoded headers of verified tokens: all messages of a device have the same header.
_key_ids: ByteBoundedCache[bytes, str] = ByteBoundedCache(2**20, lambda header, kid: 140 + len(header) + 4 * len(kid))


class BadToken(ValueError):
    """The token is not a valid version 2 message under the key; the text says why."""


class SignedMessage(NamedTuple):
    """A verified message. `content` is the signed bytes: the payload of version 2, the `signed_text` of version 1."""

    message: dict[str, Any]
    content: bytes
    version: int
    key_version: int


def verify(payload: bytes, spec: DeviceSpec, keys: KeySource, now: datetime) -> SignedMessage:
    """Return the message that the device signed. Raises Refusal, or any error of `keys`."""
    if form.is_token(payload):
        return _verify_v2(payload, spec, keys, now)
    message = form.load_object(payload)
    if spec.min_signature_version > 1:
        raise Refusal(
            "downgraded_signature",
            "The device has signed with version 2 before; version 1 is rejected until staff allow it.",
        )
    return _verify_v1(message, payload, spec, keys, now)


def content_of_v1(message: dict[str, Any], payload: bytes) -> bytes:
    """Return the bytes that a version 1 message's signature covers, as its sender serialized them."""
    return _exact_text(payload) or _text_of(message)


# --- the device's keys ----------------------------------------------------------------------------------------


def _verify_v1(
    message: dict[str, Any], payload: bytes, spec: DeviceSpec, keys: KeySource, now: datetime
) -> SignedMessage:
    given = message.get("hmac")
    if not isinstance(given, str):
        raise _no_hmac(message)
    tried: list[tuple[KeySpec, bytes]] = []
    text = _text_of(message)
    for key in spec.keys:
        if _is_valid(key, now) and (secret := keys(key.version)) is not None:
            if is_hmac_of(given, text, secret):
                return _signed_v1(message, payload, text, key)
            tried.append((key, secret))
    exact = _exact_text(payload)
    for key, secret in tried if exact else ():
        if is_hmac_of(given, exact, secret):
            return _signed_v1(message, payload, exact, key)
    named = ", ".join(str(key.version) for key in spec.keys if _is_valid(key, now)) or "none"
    detail = f"The hmac does not match under any valid key of the device (tried: {named})."
    if tried and signature_faults.budget.take(spec.device_id, now):
        detail += signature_faults.explain_v1(message, payload, [secret for _, secret in tried])
    raise Refusal("bad_signature", detail)


def _no_hmac(message: dict[str, Any]) -> Refusal:
    detail = "The message must have the member hmac with the version 1 signature"
    if "hmac" in message:
        return Refusal("bad_signature", f"{detail}, a string, not {quote_json(message['hmac'])}.")
    other = next((name for name in message if name.lower() in _NAMES_OF_HMAC), None)
    return Refusal("bad_signature", f"{detail}{f'; it has {quote(other)}' if other else ''}.")


def _signed_v1(message: dict[str, Any], payload: bytes, text: bytes, key: KeySpec) -> SignedMessage:
    """Return the verified message. Raises Refusal for a repeated key, which the signature does not show."""
    form.check_keys(payload, message)
    return _new(SignedMessage, (message, text, 1, key.version))


def _text_of(message: dict[str, Any]) -> bytes:
    try:
        return signed_text(message)
    except RecursionError as error:
        raise Refusal("malformed", "The payload is nested too deeply.") from error


def _exact_text(payload: bytes) -> bytes:
    """Return the signed text as Python reads the payload: the fast parser reads integers beyond 64 bits as floats."""
    if not form.BEYOND_64_BITS.search(payload):
        return b""
    try:
        return _text_of(json.loads(payload))
    except (ValueError, RecursionError):  # a number of thousands of digits, or nested too deeply
        return b""


def _verify_v2(payload: bytes, spec: DeviceSpec, keys: KeySource, now: datetime) -> SignedMessage:
    secret = None
    try:
        parts = _parts(payload)
        kid = _kid_of(parts[0])
        key = _find_key(spec, kid)
        if key is None:
            raise Refusal("bad_signature", f"The device has no key {quote(kid)}, or the key was revoked.")
        if not _is_valid(key, now):
            raise Refusal("bad_signature", f"Key {key.version} of the device ended at {key.not_after}.")
        secret = keys(key.version)
        if secret is None:
            raise Refusal("bad_signature", f"Key {key.version} of the device no longer exists.")
        content = _verified(payload, parts, kid, secret)
    except BadToken as error:
        # Without a variable: a frame that refers to the error, which refers to the frame, would stay in memory.
        raise _bad_token(payload, BadToken(_NEWLINE) if payload[-1:].isspace() else error, secret, spec, now) from error
    return _new(SignedMessage, (form.parse_object(content, "signed object"), content, 2, key.version))


def _bad_token(payload: bytes, error: BadToken, secret: bytes | None, spec: DeviceSpec, now: datetime) -> Refusal:
    """Return the refusal of a payload with two dots: a token, or a text that is neither a token nor JSON."""
    if not _is_meant_as_token(payload):
        try:
            form.load_object(payload)
        except Refusal as refusal:
            return refusal
    detail = f"Version 2: {error}."
    if not _has_header(payload):
        detail += " A payload that is not a token must be a JSON object."
    if secret is not None and signature_faults.budget.take(spec.device_id, now):
        detail += signature_faults.explain_v2(payload, [secret])
    return Refusal("bad_signature", detail)


def _is_meant_as_token(payload: bytes) -> bool:
    """Return whether a payload with two dots has the letters of a token alone, or begins like one."""
    return _TOKEN.fullmatch(payload) is not None or _has_header(payload)


def _has_header(payload: bytes) -> bool:
    return payload.lstrip().startswith(_BEGIN_OF_HEADER)


def _find_key(spec: DeviceSpec, kid: str) -> KeySpec | None:
    for key in spec.keys:
        if str(key.version) == kid:
            return key
    return None


def _is_valid(key: KeySpec, now: datetime) -> bool:
    return key.not_after is None or now < key.not_after


def hmac_sha256(key: bytes, text: bytes) -> bytes:
    """Return the HMAC-SHA256 of the text, 32 bytes: the same as `hmac.digest`.

    For a usual message that one takes half as long again: it prepares OpenSSL's HMAC anew for each call.
    """
    if len(key) > _BLOCK_BYTES:
        key = sha256(key).digest()
    block = key.ljust(_BLOCK_BYTES, b"\0")
    inner = sha256(block.translate(_INNER_PAD) + text).digest()
    return sha256(block.translate(_OUTER_PAD) + inner).digest()


# --- version 1 ------------------------------------------------------------------------------------------------


def _make_canonical() -> Callable[[Any], str]:
    """Return `json.dumps(…, sort_keys=True)` with one encoder; it makes one for each call, half of what it costs."""
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(sort_keys=True).encode
    escape = encoder.encode_basestring_ascii
    # No table of enclosing objects: parsed JSON has no cycles.
    encode = make(None, json.JSONEncoder().default, escape, None, ": ", ", ", True, False, True)
    return lambda value: "".join(encode(value, 0))


_canonical = _make_canonical()


def signed_text(payload: dict[str, Any]) -> bytes:
    """Return the text that version 1 signs: `{timestamp}|{canonical JSON without hmac}`."""
    signed = payload.copy()
    signed.pop("hmac", None)
    # surrogatepass: json.dumps escapes everything, but the timestamp member is printed as it is
    return f"{signed.get('timestamp')}|{_canonical(signed)}".encode("utf-8", "surrogatepass")


def is_hmac_of(signature: str, text: bytes, secret: bytes) -> bool:
    """Return whether the version 1 `signature` matches the `signed_text` under the secret."""
    digest = binascii.b2a_base64(hmac_sha256(secret, text), newline=False)
    return hmac.compare_digest(digest, signature.encode("utf-8", "surrogatepass"))


# --- version 2 ------------------------------------------------------------------------------------------------


def verified_payload(token: bytes, key: bytes) -> bytes:
    """Return the signed bytes after verifying header and signature. Raises BadToken."""
    parts = _parts(token)
    return _verified(token, parts, _find_kid(parts[0]), key)


def _verified(token: bytes, parts: tuple[bytes, bytes, bytes], kid: str | None, key: bytes) -> bytes:
    """Return the signed bytes of a token with these parts, whose header is valid. Raises BadToken."""
    header, payload, signature = parts
    digest = hmac_sha256(key, token[: -len(signature) - 1])
    # 32 bytes are 43 letters and a filler.
    if not hmac.compare_digest(binascii.b2a_base64(digest, newline=False)[:43].translate(_TO_URL), signature):
        raise BadToken("the signature does not match")
    # Only now: a sender of unverified headers would fill the memory.
    if kid is not None and _key_ids.get(header) is None:
        _key_ids.put(header, kid)
    return _decode(payload, "payload")


def unverified_payload(token: bytes) -> bytes:
    """Return a token's payload without verifying it, only to be shown to a person. Raises BadToken."""
    return _decode(_parts(token)[1], "payload")


def key_id(token: bytes) -> str:
    """Return the `kid` of a token that is not verified yet, only to choose the key. Raises BadToken."""
    return _kid_of(_parts(token)[0])


def _kid_of(header: bytes) -> str:
    kid = _find_kid(header)
    if kid is None:
        raise BadToken("the header must have kid, the key's version")
    return kid


def _parts(token: bytes) -> tuple[bytes, bytes, bytes]:
    try:
        header, payload, signature = token.split(b".")
    except ValueError:
        raise BadToken("a compact JWS must have three parts with dots between them") from None
    return header, payload, signature


def _find_kid(encoded: bytes) -> str | None:
    """Return the `kid` of a header, whose algorithm must be HS256, a whole number as its text; None: it has neither."""
    kid = _key_ids.get(encoded)
    if kid is None:
        kid = _header(encoded).get("kid")
        if kid.__class__ is int:
            kid = str(kid)
    return kid if isinstance(kid, str) else None


def _header(encoded: bytes) -> dict[str, Any]:
    if len(encoded) > _MAX_HEADER:
        raise BadToken(f"the header has {len(encoded)} bytes; the maximum is {_MAX_HEADER}")
    try:
        header = json.loads(_decode(encoded, "header"))
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the header must be JSON: {error}") from error
    if not isinstance(header, dict):
        raise BadToken("the header must be a JSON object")
    if header.get("alg") != "HS256":
        raise BadToken("the header's alg must be HS256")
    if _is_command(header.get("typ")):
        raise BadToken("the header's typ must not be command+jws, which only the platform's commands have")
    if "crit" in header or "b64" in header:
        raise BadToken("the header must not have the members crit and b64")
    return header


def _is_command(media_type: object) -> bool:
    """Return whether it is the type of the platform's commands, which have the same key (RFC 7515, 4.1.9)."""
    return isinstance(media_type, str) and media_type.casefold().removeprefix("application/") == _COMMAND_TYPE


def _decode(encoded: bytes, part: str) -> bytes:
    try:
        return binascii.a2b_base64((encoded + b"=" * (-len(encoded) % 4)).translate(_FROM_URL), strict_mode=True)
    except binascii.Error as error:
        raise BadToken(f"the {part} must be base64url without padding") from error
