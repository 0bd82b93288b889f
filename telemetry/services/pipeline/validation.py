"""Steps 2 to 5 for one message, after routing has found its specification. Pure.

`validate` receives the device's specification and a source of its keys; it returns the message or raises the refusal.
"""

import hashlib
from contextlib import suppress
from datetime import datetime
from typing import Any

from devices.domain.specs import DeviceSpec

from . import claims, contract, entries, form, normalization, signature, wills
from .results import Refusal, Topic, TopicKind, ValidatedMessage, VerifiedContact, quote, quote_json

_NO_VALUES = normalization.NormalizedValues([])
_CLOCK_REASONS = frozenset({"future_timestamp", "past_timestamp"})
# Python 3.11 looks up a member of an enumeration in several steps, each time.
_TELEMETRY, _BIRTH, _WILL = TopicKind.TELEMETRY, TopicKind.BIRTH, TopicKind.WILL


def validate(
    topic: Topic,
    text_topic: str,
    payload: bytes,
    spec: DeviceSpec,
    keys: signature.KeySource,
    received_at: datetime,
    clock: contract.ClockTolerance,
    gateway: DeviceSpec | None = None,
) -> ValidatedMessage:
    """Return the message after all checks. Raises Refusal, or any error of `keys` when a key is unavailable.

    `gateway` is the device that published the message for its child, and `keys` are its keys then.
    """
    check_routing(spec)
    if gateway is not None:
        check_child(topic, spec, gateway)
    kind = topic.kind
    if kind is _WILL:
        check_valid_key(spec, received_at)
        return _validate_will(topic, text_topic, payload, spec, received_at)
    message, content, version, key_version = signature.verify(payload, gateway or spec, keys, received_at)
    if gateway is not None:
        contract.check_gateway(topic, message, version)
    try:
        # Not before the signature: it proves that the device is the tenant's, which must not see another one's
        # payloads.
        check_segment(topic, spec)
        counter = contract.check_binding(topic, message) if version == 2 else None
        component, values, session, is_timed = "", _NO_VALUES, "", False
        if kind is _TELEMETRY:
            # A type may state another place for the time.
            if is_dated := message.get("timestamp") is not None:
                moment, late = contract.check_time(message, received_at, clock)
            contract.check_board(message, spec)
            registered = contract.check_component(topic, message, spec)
            if version == 2 and not claims.VALIDITY.isdisjoint(message):
                claims.check_validity(message, registered, received_at, clock)
            source = payload if version == 1 else content
            component = registered.key
            if registered.entries is not None:
                moment, late, values, is_timed = entries.normalize(message, registered, source, received_at, clock)
            else:
                if not is_dated:
                    moment, late = contract.check_time(message, received_at, clock)  # refuses it
                values = normalization.normalize(message, registered, source)
        else:
            if "cpu_serial" in message:
                contract.check_board(message, spec)
            else:  # old firmware's births have none
                contract.check_hardware_version(message, spec)
            if version == 2 and not claims.VALIDITY.isdisjoint(message):
                claims.check_validity(message, None, received_at, clock)
            session = _session(message)
            moment, late = contract.check_time(message, received_at, clock)
    except Refusal as refusal:
        # A valid signature of another topic says nothing of this device.
        if refusal.reason != "bad_signature":
            refusal.contact = contact = _contact_of(kind, message, refusal)
            if contact.session:
                refusal.detail += f" The birth counts nevertheless: its session {quote(contact.session)} begins."
        raise
    return ValidatedMessage(
        topic,
        component,
        moment,
        late,
        version,
        key_version,
        fingerprint(text_topic.encode(), content),
        values.measurements,
        session,
        counter,
        values.unmapped,
        values.cut,
        values.refused,
        is_timed,
    )


def validate_legacy(
    topic: Topic,
    text_topic: str,
    payload: bytes,
    spec: DeviceSpec,
    recorded_time: datetime | None,
    received_at: datetime,
    clock: contract.ClockTolerance,
) -> ValidatedMessage:
    """Return a message of an old server's record after the checks of a live one, as a late message. Raises Refusal.

    Its signature is not checked, because that server has verified it, nor the state of the device, which may be
    deactivated by now. Its fingerprint equals that of the same message when the device itself sends it.
    """
    check_segment(topic, spec)
    if topic.child is not None:
        raise Refusal("malformed", "An old server has no messages of gateways.")
    if topic.kind is _WILL:
        will = _validate_will(topic, text_topic, payload, spec, received_at)
        will.late = True
        return will
    message = form.parse_object(payload)
    moment = contract.recorded_time(message, recorded_time, received_at, clock)
    component, values = "", _NO_VALUES
    if topic.kind is _TELEMETRY:
        contract.check_board(message, spec)
        registered = contract.check_component(topic, message, spec)
        component, values = registered.key, normalization.normalize(message, registered, payload)
    return ValidatedMessage(
        topic=topic,
        component=component,
        time=moment,
        late=True,
        signature=0,
        key_version=0,
        fingerprint=fingerprint(text_topic.encode(), signature.content_of_v1(message, payload)),
        measurements=values.measurements,
        unmapped=values.unmapped,
        cut=values.cut,
        refused=values.refused,
    )


def check_routing(spec: DeviceSpec) -> None:
    """Raise Refusal for an inactive device or tenant; no key is needed for it."""
    if not spec.tenant.active:
        raise Refusal(
            "inactive_device",
            f"The tenant {spec.tenant.slug} is suspended; only the platform's staff can reactivate it.",
        )
    if not spec.active:
        raise Refusal("inactive_device", "The device is deactivated; activate it on its page to accept its messages.")


def check_child(topic: Topic, child: DeviceSpec | None, gateway: DeviceSpec) -> None:
    """Raise Refusal unless the topic's child is a device of this gateway, and the gateway is active.

    The text is the same for a device of another gateway, of another tenant, and for none.
    """
    check_routing(gateway)
    if child is None or child.gateway != gateway.number or child.tenant.schema != gateway.tenant.schema:
        raise Refusal(
            "unknown_child",
            f"The device {topic.device} is not a child of the gateway {gateway.uuid}; register it, and choose the "
            "gateway on its page.",
        )


def check_valid_key(spec: DeviceSpec, at: datetime) -> None:
    """Raise Refusal for a device that has no valid key, for a will: it is not signed, and no birth can precede it."""
    if not any(key.not_after is None or at < key.not_after for key in spec.keys):
        raise Refusal("bad_signature", "The device has no valid key; issue one to accept its messages and its will.")


def check_segment(topic: Topic, spec: DeviceSpec) -> None:
    """Raise Refusal (`wrong_tenant`) for a topic with another tenant's segment than the device's."""
    if topic.segment and names_other_tenant(topic.segment, spec):
        raise Refusal(
            "wrong_tenant",
            f"The device does not belong to the tenant {quote(topic.segment)}; it must publish on "
            f"telemetry/{spec.tenant.slug}/{spec.uuid}/…, or the segment must be registered as a topic alias.",
        )


def names_other_tenant(segment: str, spec: DeviceSpec) -> bool:
    """Return whether the segment of a telemetry topic is neither the slug nor an alias of the device's tenant."""
    return segment not in spec.tenant.segments


def fingerprint(*parts: bytes) -> bytes:
    """Return the first 16 bytes of SHA-256 over the parts with NUL between them."""
    return hashlib.sha256(b"\x00".join(parts)).digest()[:16]


def _contact_of(kind: TopicKind, message: dict[str, Any], refused: Refusal) -> VerifiedContact:
    """Return what a refused message says of its device. The session of a birth whose clock alone is wrong begins."""
    begins = kind is _BIRTH and refused.reason in _CLOCK_REASONS
    moment = refused.time
    if moment is None:
        with suppress(Refusal):
            moment = normalization.read_timestamp(message.get("timestamp"))
    return VerifiedContact(moment, _session(message) if begins else None)


def _validate_will(
    topic: Topic, text_topic: str, payload: bytes, spec: DeviceSpec, received_at: datetime
) -> ValidatedMessage:
    """Return a will after checking what it says. The broker binds it to its device; it is not signed.

    It carries no time, so that only its session and the second distinguish a redelivery from another will.
    """
    message = wills.parse_will(topic, payload, text_wills=spec.text_wills)
    moment = received_at.replace(microsecond=0)
    return ValidatedMessage(
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
        raise Refusal("malformed", f"The session must be a text of at most 64 characters, not {quote_json(session)}.")
    return session
