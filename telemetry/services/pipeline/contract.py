"""Step 4, contract: a message against the registered hardware. Pure."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from devices.domain.specs import ComponentSpec, DeviceSpec

from .normalization import read_timestamp
from .results import Refusal, Topic, TopicKind, quote, quote_json

_MAX_COUNTER = 2**63 - 1
_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ClockTolerance:
    """The tolerated distance of a device's clock from ours: live within `live`, refused beyond `future` ahead.

    Times before `earliest` are refused too.
    """

    live: timedelta
    future: timedelta
    earliest: datetime = _BEGINNING


def check_board(message: dict[str, Any], spec: DeviceSpec) -> None:
    """Raise Refusal for another board or another hardware version than the registered one."""
    serial = message.get("cpu_serial")
    if spec.cpu_serial and serial != spec.cpu_serial and not _is_number(serial, spec.cpu_serial):
        raise _board_mismatch(serial, spec)
    check_hardware_version(message, spec)


def check_hardware_version(message: dict[str, Any], spec: DeviceSpec) -> None:
    """Raise Refusal for another hardware version than the registered one; a message may omit it."""
    version = message.get("hardware_version")
    registered = spec.hardware_version
    if version is not None and registered and version != registered and not _is_number(version, registered):
        hint = _spelling_hint(version, registered)
        raise Refusal(
            "hardware_version_mismatch",
            f"The hardware version must be {quote(registered)}, as registered, not {quote_json(version)}. "
            f"{hint or 'Choose the right hardware model on the page of the device, or correct what the device sends.'}",
        )


def _is_number(value: Any, text: str) -> bool:
    """Return whether a message's value is the number that the registered text writes: 1 for '1'."""
    return value.__class__ in (int, float) and repr(value) == text


def _spelling_hint(value: Any, text: str) -> str:
    """Return what to change in a value that is the registered one in another spelling; empty if it is another one."""
    if isinstance(value, str):
        if value.strip() == text:
            return "It differs only in blanks at its ends; send it without them."
        if value.casefold() == text.casefold():
            return "It differs only in capital letters; send it as registered, or register it as sent."
    elif value.__class__ in (int, float):
        with suppress(ValueError):
            if float(text) == value:
                return "Send it as a string: a number has no zeros at its ends."
    return ""


def check_component(topic: Topic, message: dict[str, Any], spec: DeviceSpec) -> ComponentSpec:
    """Return the message's component. Raises Refusal where it is unknown, not attached, or not allowed."""
    component = spec.components.get(topic.component) or _single_of_type(topic.component, spec)
    if component is None:
        raise _unknown_component(topic.component, spec)
    if not component.attached:
        raise Refusal(
            "component_not_attached",
            f"The component {component.key} is registered, but not attached; mark it as attached on the device's page.",
        )
    if not component.allowed:
        raise Refusal(
            "component_not_allowed",
            f"Hardware model version {quote(spec.hardware_version)} does not allow the type {component.type_key}; "
            "allow the type on the hardware model, or choose another model for the device.",
        )
    _check_repeated(topic, message, component)
    return component


def check_binding(topic: Topic, message: dict[str, Any]) -> tuple[int, int] | None:
    """Return (boot, seq) of a version 2 message, None where a birth omits them.

    Raises Refusal where the signed members differ from the topic's, or the counter is invalid.
    """
    named = message.get("device_uuid")
    if named != topic.device and (not isinstance(named, str) or named.lower() != topic.device):
        raise Refusal(
            "bad_signature", f"The signed device_uuid must be the topic's, {topic.device}, not {quote_json(named)}."
        )
    if topic.component and message.get("component") != topic.component:
        raise Refusal(
            "bad_signature",
            f"The signed component must be the topic's, {quote(topic.component)}, "
            f"not {quote_json(message.get('component'))}.",
        )
    boot, seq = message.get("boot"), message.get("seq")
    # The usual case, in one comparison.
    if boot.__class__ is int and seq.__class__ is int and 0 <= boot <= _MAX_COUNTER and 0 <= seq <= _MAX_COUNTER:
        return boot, seq
    if topic.kind is TopicKind.BIRTH and "boot" not in message and "seq" not in message:
        return None
    for name, value in (("boot", boot), ("seq", seq)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNTER:
            raise Refusal("malformed", f"{name} must be a whole number from 0 in version 2, not {quote_json(value)}.")
    return boot, seq  # type: ignore[return-value]  # both are int, as just checked


def check_gateway(topic: Topic, message: dict[str, Any], version: int) -> None:
    """Raise Refusal where a message on a gateway's topic was not signed to be the gateway's message for a child."""
    if version != 2:
        raise Refusal("bad_signature", "A gateway must sign the messages of other devices with version 2.")
    named = message.get("gateway")
    if not isinstance(named, str) or named.lower() != str(topic.uuid):
        raise Refusal(
            "bad_signature", f"The signed gateway must be the topic's, {topic.uuid}, not {quote_json(named)}."
        )


def check_time(message: dict[str, Any], received_at: datetime, clock: ClockTolerance) -> tuple[datetime, bool]:
    """Return (device time, whether it is late). Raises Refusal for a time too far ahead, or too long ago."""
    return check_moment(read_timestamp(message.get("timestamp")), received_at, clock)


def check_moment(moment: datetime, received_at: datetime, clock: ClockTolerance) -> tuple[datetime, bool]:
    """Return (the time, whether it is late). Raises Refusal for a time too far ahead, or too long ago."""
    is_late = -check_not_ahead(moment, received_at, clock) > clock.live
    if is_late and moment < clock.earliest:
        raise _wrong_time(
            "past_timestamp",
            moment,
            f"The timestamp {moment.isoformat()} is before {clock.earliest.date().isoformat()}, the earliest that the "
            "platform accepts. Set the device's clock.",
        )
    return moment, is_late


def recorded_time(
    message: dict[str, Any], recorded: datetime | None, received_at: datetime, clock: ClockTolerance
) -> datetime:
    """Return the device time of a message in an old server's record: the message's own, or the recorded one where the
    message's is unreadable. Raises Refusal for a message without either, and for a time too far ahead.
    """
    try:
        moment = read_timestamp(message.get("timestamp"))
    except Refusal:
        if recorded is None:
            raise
        moment = recorded
    check_not_ahead(moment, received_at, clock)
    return moment


def check_not_ahead(moment: datetime, received_at: datetime, clock: ClockTolerance) -> timedelta:
    """Return how far the time is ahead of ours. Raises Refusal (`future_timestamp`) beyond the tolerance."""
    ahead = moment - received_at
    if ahead > clock.future:
        raise _wrong_time(
            "future_timestamp",
            moment,
            f"The timestamp {moment.isoformat()} is {ahead.total_seconds():.0f} s ahead of the server's clock; "
            f"the maximum is {clock.future.total_seconds():.0f} s. Set the device's clock.",
        )
    return ahead


def _wrong_time(reason: str, moment: datetime, detail: str) -> Refusal:
    refusal = Refusal(reason, detail)
    refusal.time = moment
    return refusal


def _board_mismatch(serial: Any, spec: DeviceSpec) -> Refusal:
    registered = quote(spec.cpu_serial)
    if serial is None:
        detail = f"The message must carry the registered cpu_serial, {registered}; it has none."
    else:
        detail = (
            f"The message comes from the board {quote(serial) if isinstance(serial, str) else quote_json(serial)}; "
            f"the registered board is {registered}. "
            f"{_spelling_hint(serial, spec.cpu_serial) or 'The SD card may have been moved or copied.'}"
        )
    return Refusal(
        "cpu_serial_mismatch", f"{detail} Where the board was replaced, register its serial on the device's page."
    )


def _single_of_type(name: str, spec: DeviceSpec) -> ComponentSpec | None:
    """Old firmware names the type, which is unambiguous where exactly one of that type is attached."""
    of_type = [c for c in spec.components.values() if c.type_key == name and c.attached]
    return of_type[0] if len(of_type) == 1 else None


def _unknown_component(name: str, spec: DeviceSpec) -> Refusal:
    known = ", ".join(sorted(spec.components)) or "no components"
    same_type = sum(c.type_key == name and c.attached for c in spec.components.values())
    if same_type > 1:
        return Refusal(
            "unknown_component",
            f"{same_type} components of type {name} are attached; the topic must name one of them. "
            f"The device has: {known}.",
        )
    if name in spec.type_keys:
        return Refusal(
            "component_not_attached",
            f"No component of type {name} is attached to the device; it has: {known}. Attach one on the device's page.",
        )
    return Refusal(
        "unknown_component",
        f"The topic must name a component of the device ({known}) or its type, not {quote(name)}. "
        "Add the component on the device's page, or correct the topic.",
    )


def _check_repeated(topic: Topic, message: dict[str, Any], component: ComponentSpec) -> None:
    """Raise Refusal where the component that later old firmware repeats in the message differs from the topic's."""
    named_type, named_instance = message.get("component_type"), message.get("instance_name")
    if named_type is not None and named_type != component.type_key:
        raise Refusal(
            "unknown_component",
            f"The component_type must be the topic's, {component.type_key}, not {quote_json(named_type)}. "
            "Correct the topic or the message.",
        )
    if named_instance is not None and named_instance not in (component.key, topic.component):
        raise Refusal(
            "unknown_component",
            f"The instance_name must be the topic's component, {component.key}, not {quote_json(named_instance)}. "
            "Correct the topic or the message.",
        )
