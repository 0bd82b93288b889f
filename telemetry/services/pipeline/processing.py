"""One message through the stages: envelope → routing → signature → validation → normalization. No I/O here.

`judge` takes what routing found (the device's specification) and a way to get its keys, and says what the
message is: Accepted, or Refused with the reason.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from devices.domain.specs import DeviceSpec, KeySpec

from . import contract, form, normalization, signature
from .form import Kind, Topic
from .measurement import Measurement
from .refusal import Refused, quote

# (version) → the key's bytes, None where there is none; may raise KeyUnavailable.
KeySource = Callable[[int], bytes | None]

# Where there is none of these, both parsers read the same.
_BEYOND_64_BITS = re.compile(rb"[0-9]{19}")

_NO_VALUES = normalization.Normalized([])
# Python 3.11 looks a member of an enumeration up in several steps, each time.
_TELEMETRY, _BIRTH, _WILL = Kind.TELEMETRY, Kind.BIRTH, Kind.WILL


# Not frozen, as none of what is made for each message: freezing makes it three times as dear to make.
@dataclass(slots=True)
class Accepted:
    """A message that is what it claims to be. `measurements` are empty for births and wills.

    `unmapped` are the values without a metric: storage takes as many as the component may have series.
    """

    topic: Topic
    component: str
    time: datetime
    late: bool
    signature: int  # 0: not verified: a will, which nobody can sign in advance, or an old server's record
    key_version: int
    fingerprint: bytes  # 16 of them
    measurements: list[Measurement] = field(default_factory=list)
    session: str = ""
    counter: tuple[int, int] | None = None  # (boot, seq)
    unmapped: list[Measurement] = field(default_factory=list)
    cut: bool = False  # there are more values without a metric than are kept


class _Signed(NamedTuple):
    message: dict[str, Any]
    content: bytes  # what was signed: the payload of version 2, the `signed_text` of version 1
    version: int
    key_version: int


def judge(
    topic: Topic,
    text_topic: str,
    payload: bytes,
    spec: DeviceSpec,
    keys: KeySource,
    received_at: datetime,
    clock: contract.Clock,
) -> Accepted:
    """What the message is. Raises Refused, or whatever `keys` raises when no key can be had."""
    contract.check_routing(topic, spec)
    kind = topic.kind
    if kind is _WILL:
        return _will(topic, text_topic, payload, received_at)
    message, content, version, key_version = _verify(payload, spec, keys, received_at)
    counter = contract.check_binding(topic, message) if version == 2 else None
    moment, late = contract.check_time(message, received_at, clock)
    component, values = "", _NO_VALUES
    if kind is _TELEMETRY:
        contract.check_board(message, spec)
        registered = contract.check_component(topic, message, spec)
        component, values = registered.key, normalization.normalize(message, registered)
    elif "cpu_serial" in message:
        contract.check_board(message, spec)
    return Accepted(
        topic,
        component,
        moment,
        late,
        version,
        key_version,
        fingerprint(text_topic.encode(), content),
        values.measurements,
        _session(message) if kind is _BIRTH else "",
        counter,
        values.unmapped,
        values.cut,
    )


def judge_recorded(
    topic: Topic,
    text_topic: str,
    payload: bytes,
    spec: DeviceSpec,
    recorded_time: datetime | None,
    received_at: datetime,
    clock: contract.Clock,
) -> Accepted:
    """What a message in an old server's record is: judged as a live one, but for its signature, which that server has
    verified, and for the device, which may be switched off by now. It is always late. Raises Refused.

    It has the fingerprint of the same message when it comes, or came, from the device itself.
    """
    contract.check_segment(topic, spec)
    if topic.kind is Kind.WILL:
        will = _will(topic, text_topic, payload, received_at)
        will.late = True
        return will
    message = form.parse_object(payload)
    moment = contract.recorded_time(message, recorded_time, received_at, clock)
    component, values = "", _NO_VALUES
    if topic.kind is Kind.TELEMETRY:
        contract.check_board(message, spec)
        registered = contract.check_component(topic, message, spec)
        component, values = registered.key, normalization.normalize(message, registered)
    return Accepted(
        topic=topic,
        component=component,
        time=moment,
        late=True,
        signature=0,
        key_version=0,
        fingerprint=fingerprint(text_topic.encode(), _exact_text(payload) or _signed_text(message)),
        measurements=values.measurements,
        unmapped=values.unmapped,
        cut=values.cut,
    )


def fingerprint(*parts: bytes) -> bytes:
    """The first 16 bytes of SHA-256 over the parts with NUL between them."""
    return hashlib.sha256(b"\x00".join(parts)).digest()[:16]


def _verify(payload: bytes, spec: DeviceSpec, keys: KeySource, now: datetime) -> _Signed:
    if form.is_token(payload):
        return _verify_v2(payload, spec, keys, now)
    message = form.parse_object(payload)
    if spec.signature_floor > 1:
        raise Refused(
            "downgraded_signature",
            "The device has signed with version 2 before, so version 1 is not taken until staff allow it.",
        )
    return _verify_v1(message, payload, spec, keys, now)


def _verify_v1(message: dict[str, Any], payload: bytes, spec: DeviceSpec, keys: KeySource, now: datetime) -> _Signed:
    given = message.get("hmac")
    if not isinstance(given, str):
        raise Refused("bad_signature", "The message has no hmac member, which holds the version 1 signature.")
    tried: list[tuple[KeySpec, bytes]] = []
    text = _signed_text(message)
    for key in spec.keys:
        if _is_valid(key, now) and (secret := keys(key.version)) is not None:
            if signature.is_hmac_of(given, text, secret):
                return _Signed(message, text, 1, key.version)
            tried.append((key, secret))
    exact = _exact_text(payload)
    for key, secret in tried if exact else ():
        if signature.is_hmac_of(given, exact, secret):
            return _Signed(message, exact, 1, key.version)
    named = ", ".join(str(key.version) for key in spec.keys if _is_valid(key, now)) or "none"
    raise Refused("bad_signature", f"The hmac does not match under any valid key of the device (tried: {named}).")


def _signed_text(message: dict[str, Any]) -> bytes:
    try:
        return signature.signed_text(message)
    except RecursionError as error:
        raise Refused("malformed", "The payload is nested too deeply.") from error


def _exact_text(payload: bytes) -> bytes:
    """The signed text as Python reads the payload: the fast parser reads whole numbers beyond 64 bits as floats."""
    if not _BEYOND_64_BITS.search(payload):
        return b""
    try:
        return _signed_text(json.loads(payload))
    except (ValueError, RecursionError):  # a number of thousands of digits, or nested too deeply
        return b""


def _verify_v2(payload: bytes, spec: DeviceSpec, keys: KeySource, now: datetime) -> _Signed:
    try:
        kid = signature.key_id(payload)
        key = _key_named(spec, kid)
        if key is None:
            raise Refused("bad_signature", f"The device has no key {quote(kid)}, or it was revoked.")
        if not _is_valid(key, now):
            raise Refused("bad_signature", f"Key {key.version} of the device ended at {key.not_after}.")
        secret = keys(key.version)
        if secret is None:
            raise Refused("bad_signature", f"Key {key.version} of the device does not exist any more.")
        content = signature.verified_payload(payload, secret)
    except signature.BadToken as error:
        raise Refused("bad_signature", f"Version 2: {error}.") from error
    return _Signed(form.parse_object(content), content, 2, key.version)


def _key_named(spec: DeviceSpec, kid: str) -> KeySpec | None:
    for key in spec.keys:
        if str(key.version) == kid:
            return key
    return None


def _is_valid(key: KeySpec, now: datetime) -> bool:
    return key.not_after is None or now < key.not_after


def _will(topic: Topic, text_topic: str, payload: bytes, received_at: datetime) -> Accepted:
    """A will is bound to its device by the broker, not signed: only its form is checked.

    It carries no time, so that a redelivery is told from another will by its session and the second alone.
    """
    message = form.parse_object(payload)
    if str(message.get("device_uuid", topic.uuid)).lower() != str(topic.uuid):
        raise Refused("malformed", "The device_uuid in the payload is not the topic's.")
    moment = received_at.replace(microsecond=0)
    return Accepted(
        topic=topic,
        component="",
        time=moment,
        late=False,
        signature=0,
        key_version=0,
        fingerprint=fingerprint(text_topic.encode(), payload),
        session=_session(message),
    )


def _session(message: dict[str, Any]) -> str:
    session = message.get("session", "")
    if not isinstance(session, str) or len(session) > 64 or "\x00" in session:
        raise Refused("malformed", f"The session {quote(session)} is not a text of at most 64 characters.")
    return session
