"""Stage 4: the hardware contract. Is this what is registered? Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from devices.domain.specs import ComponentSpec, DeviceSpec

from .form import Kind, Topic
from .normalization import read_timestamp
from .refusal import Refused, quote

_MAX_COUNTER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a device's clock may be from ours: live within `live` either way, refused beyond `future` ahead."""

    live: timedelta
    future: timedelta


def check_routing(topic: Topic, spec: DeviceSpec) -> None:
    """Refuse what names another tenant, or an inactive device: needs no signature."""
    check_segment(topic, spec)
    if not spec.tenant.active:
        raise Refused("inactive_device", f"The tenant {spec.tenant.slug} is suspended; ask the platform's staff.")
    if not spec.active:
        raise Refused("inactive_device", "The device is deactivated; activate it on its page to take its messages.")


def check_segment(topic: Topic, spec: DeviceSpec) -> None:
    """Refuse what names another tenant than the device's."""
    if topic.segment and topic.segment not in spec.tenant.segments:
        raise Refused(
            "wrong_tenant",
            f"The device belongs to another tenant than {quote(topic.segment)}; "
            f"publish on telemetry/{spec.tenant.slug}/{spec.uuid}/…, or register the segment as a topic alias.",
        )


def check_board(message: dict[str, Any], spec: DeviceSpec) -> None:
    """Refuse another board or another hardware revision than the registered one."""
    if spec.cpu_serial and message.get("cpu_serial") != spec.cpu_serial:
        raise _another_board(message.get("cpu_serial"), spec)
    version = message.get("hardware_version")
    if version is not None and spec.hardware_version and version != spec.hardware_version:
        raise Refused(
            "hardware_version_mismatch",
            f"The message says hardware version {quote(version)}, registered is {quote(spec.hardware_version)}. "
            "Choose the right hardware model on the device's page, or correct what the device sends.",
        )


def check_component(topic: Topic, message: dict[str, Any], spec: DeviceSpec) -> ComponentSpec:
    """The component that the message is from. Refuses one that is unknown, not attached, or not allowed."""
    component = spec.components.get(topic.component) or _only_one_of_type(topic.component, spec)
    if component is None:
        raise _no_component(topic.component, spec)
    if not component.attached:
        raise Refused(
            "component_not_attached",
            f"The component {component.key} is registered, but not attached; mark it as attached on the device's page.",
        )
    if not component.allowed:
        raise Refused(
            "component_not_allowed",
            f"Hardware model version {quote(spec.hardware_version)} may not carry the type {component.type_key}; "
            "allow the type on the hardware model, or choose another model for the device.",
        )
    _check_repeated(topic, message, component)
    return component


def check_binding(topic: Topic, message: dict[str, Any]) -> tuple[int, int] | None:
    """Version 2: the signed members must equal the topic's. Returns (boot, seq), which a birth may leave out."""
    said = message.get("device_uuid")
    if said != topic.device and (not isinstance(said, str) or said.lower() != topic.device):
        raise Refused("bad_signature", f"The signed device_uuid {quote(said)} is not the topic's, {topic.device}.")
    if topic.component and message.get("component") != topic.component:
        raise Refused(
            "bad_signature",
            f"The signed component {quote(message.get('component'))} is not the topic's, {quote(topic.component)}.",
        )
    boot, seq = message.get("boot"), message.get("seq")
    # The usual case, in one comparison.
    if boot.__class__ is int and seq.__class__ is int and 0 <= boot <= _MAX_COUNTER and 0 <= seq <= _MAX_COUNTER:
        return boot, seq
    if topic.kind is Kind.BIRTH and "boot" not in message and "seq" not in message:
        return None
    for name, value in (("boot", boot), ("seq", seq)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNTER:
            raise Refused("malformed", f"Version 2 needs {name}, a whole number from 0; got {quote(value)}.")
    return boot, seq  # type: ignore[return-value]  # both were just found to be int


def check_time(message: dict[str, Any], received_at: datetime, clock: Clock) -> tuple[datetime, bool]:
    """(device time, whether it is late). Refuses a time too far ahead."""
    moment = read_timestamp(message.get("timestamp"))
    return moment, -check_not_ahead(moment, received_at, clock) > clock.live


def recorded_time(message: dict[str, Any], recorded: datetime | None, received_at: datetime, clock: Clock) -> datetime:
    """The device time of a message in an old server's record: the message's own where it can be read, as for a live
    one, else what was recorded beside it. Refuses one without either, and a time too far ahead.
    """
    try:
        moment = read_timestamp(message.get("timestamp"))
    except Refused:
        if recorded is None:
            raise
        moment = recorded
    check_not_ahead(moment, received_at, clock)
    return moment


def check_not_ahead(moment: datetime, received_at: datetime, clock: Clock) -> timedelta:
    """How far the time is ahead of ours. Refuses one that is too far ahead."""
    ahead = moment - received_at
    if ahead > clock.future:
        raise Refused(
            "future_timestamp",
            f"The timestamp {moment.isoformat()} is {ahead.total_seconds():.0f} s ahead of the server's clock; "
            f"at most {clock.future.total_seconds():.0f} s are taken. Set the device's clock.",
        )
    return ahead


def _another_board(said: Any, spec: DeviceSpec) -> Refused:
    registered = quote(spec.cpu_serial)
    if said is None:
        detail = f"The message has no cpu_serial; registered is {registered}, which every message must carry."
    else:
        detail = f"The message comes from the board {quote(said)}, registered is {registered}: was the SD card moved or"
        detail += " copied?"
    return Refused(
        "cpu_serial_mismatch", f"{detail} Where the board was replaced, register its serial on the device's page."
    )


def _only_one_of_type(name: str, spec: DeviceSpec) -> ComponentSpec | None:
    """Old firmware names the type: right where exactly one of that type is attached."""
    of_type = [c for c in spec.components.values() if c.type_key == name and c.attached]
    return of_type[0] if len(of_type) == 1 else None


def _no_component(name: str, spec: DeviceSpec) -> Refused:
    known = ", ".join(sorted(spec.components)) or "none"
    same_type = sum(c.type_key == name and c.attached for c in spec.components.values())
    if same_type > 1:
        return Refused(
            "unknown_component",
            f"{same_type} components of type {name} are attached: name one of them. The device has: {known}.",
        )
    if name in spec.type_keys:
        return Refused(
            "component_not_attached",
            f"No component of type {name} is attached to the device; it has: {known}. Attach one on the device's page.",
        )
    return Refused(
        "unknown_component",
        f"{quote(name)} is neither a component of the device ({known}) nor a registered component type. "
        "Add the component on the device's page, or correct the topic.",
    )


def _check_repeated(topic: Topic, message: dict[str, Any], component: ComponentSpec) -> None:
    """Later old firmware repeats the component in the message: it must agree with the topic."""
    said_type, said_name = message.get("component_type"), message.get("instance_name")
    if said_type is not None and said_type != component.type_key:
        raise Refused(
            "unknown_component",
            f"The message says component_type {quote(said_type)}, the topic's component is a {component.type_key}. "
            "Correct the topic or the message.",
        )
    if said_name is not None and said_name not in (component.key, topic.component):
        raise Refused(
            "unknown_component",
            f"The message says instance_name {quote(said_name)}, the topic's component is {component.key}. "
            "Correct the topic or the message.",
        )
