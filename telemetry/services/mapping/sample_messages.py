"""Sample messages for a metric mapping: the newest stored or refused messages of a type's components."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models.functions import Length

from devices.models import Component, ComponentType, Device
from telemetry.models import Quarantined
from telemetry.services.pipeline import form
from telemetry.services.pipeline.results import Refusal
from telemetry.services.queries import readings

from . import proposal

# Looked through for examples: so many devices, and of each so many messages.
_MAX_DEVICES = 20
_MAX_MESSAGES = 20
_MAX_PAYLOAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class SampleMessage:
    """A message and its source; `quarantined` is the row of a refused message, with its reason."""

    device: Device
    component: str
    at: datetime
    message: dict[str, Any]
    quarantined: int | None = None
    reason: str = ""


def sample_messages(
    component_type: ComponentType, *, device: Device | None = None, limit: int = 10
) -> list[SampleMessage]:
    """Return the newest message of each of the type's components, optionally of one device, newest first."""
    found = [example for one, named in _devices_with(component_type, device) for example in _device_samples(one, named)]
    return sorted(found, key=lambda example: example.at, reverse=True)[:limit]


def recent_messages(component_type: ComponentType) -> list[dict[str, Any]]:
    """Return the newest messages of the type's components: of 20 devices the 20 newest, and one that was refused."""
    found = []
    for device, named in _devices_with(component_type, None):
        for message in readings.messages(device, limit=_MAX_MESSAGES):
            if _component_of(message.topic) in named and (content := _content(message.payload)) is not None:
                found.append(content)
        # A value can be refused alone: its message is stored.
        found += [example.message for example in _refused_sample(device, named) if example.message not in found]
    return found


def _devices_with(component_type: ComponentType, device: Device | None) -> list[tuple[Device, set[str]]]:
    """Return the devices that have components of the type, heard last first, each with the names of these in topics."""
    components = Component.objects.filter(component_type=component_type, attached=True).select_related("device")
    if device is not None:
        components = components.filter(device=device)
    keys: dict[Device, set[str]] = {}
    for component in components.order_by("-device__presence__last_seen_at", "-id")[:_MAX_DEVICES]:
        keys.setdefault(component.device, set()).update((component.key, component_type.key))
    return list(keys.items())


def quarantined_message(row: Quarantined) -> dict[str, Any]:
    """Return the message of a quarantined row. Raises ValidationError when it is not a message."""
    return proposal.parse_message(row.payload)


def _device_samples(device: Device, named: set[str]) -> Iterator[SampleMessage]:
    """The newest message of each component, and the newest that was refused."""
    seen: set[str] = set()
    for message in readings.messages(device, limit=_MAX_MESSAGES):
        component = _component_of(message.topic)
        if component in named - seen and (content := _content(message.payload)) is not None:
            seen.add(component)
            yield SampleMessage(device, component, message.time, content)
    yield from _refused_sample(device, named)


def _refused_sample(device: Device, named: set[str]) -> Iterator[SampleMessage]:
    """Yield the newest refused message of the components, if there is one."""
    # A message of which single values are refused is stored.
    whole = Quarantined.objects.filter(device=device, metric="")
    refused = whole.alias(size=Length("payload")).filter(size__lte=_MAX_PAYLOAD)
    for row in refused[:_MAX_MESSAGES]:
        component = _component_of(row.topic)
        if component in named and (content := _content(row.payload)) is not None:
            yield SampleMessage(device, component, row.last_received_at, content, row.pk, row.get_reason_display())
            return


def _component_of(topic: str) -> str:
    try:
        return form.parse_topic(topic).component
    except Refusal:
        return ""


def _content(payload: bytes | memoryview) -> dict[str, Any] | None:
    try:
        return proposal.parse_message(payload)
    except ValidationError:
        return None
