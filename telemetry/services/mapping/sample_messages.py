"""Messages to teach a component type by: the newest that its components sent, stored or refused."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models.functions import Length

from devices.models import Component, ComponentType, Device
from telemetry.models import Quarantined
from telemetry.services.pipeline import form
from telemetry.services.pipeline.refusal import Refused
from telemetry.services.queries import readings

from . import proposal

# Looked through for examples: so many devices, and of each so many messages.
_DEVICES = 20
_MESSAGES = 20
_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Example:
    """A message and where it is from; `quarantined` is the row of one that was refused, with its reason."""

    device: Device
    component: str
    at: datetime
    message: dict[str, Any]
    quarantined: int | None = None
    reason: str = ""


def examples(component_type: ComponentType, *, device: Device | None = None, limit: int = 10) -> list[Example]:
    """The newest message of each of the type's components, those of `device` alone where it is given, newest first."""
    components = Component.objects.filter(component_type=component_type, attached=True).select_related("device")
    if device is not None:
        components = components.filter(device=device)
    keys: dict[Device, set[str]] = {}
    for component in components.order_by("-device__presence__last_seen_at", "-id")[:_DEVICES]:
        keys.setdefault(component.device, set()).update((component.key, component_type.key))
    found = [example for one, named in keys.items() for example in _of_device(one, named)]
    return sorted(found, key=lambda example: example.at, reverse=True)[:limit]


def of_quarantine(row: Quarantined) -> dict[str, Any]:
    """The message of a quarantined row. Raises ValidationError where it is none."""
    return proposal.example_of(row.payload)


def _of_device(device: Device, named: set[str]) -> Iterator[Example]:
    """The newest message of each component, and the newest that was refused."""
    seen: set[str] = set()
    for message in readings.messages(device, limit=_MESSAGES):
        component = _component_of(message.topic)
        if component in named - seen and (content := _content(message.payload)) is not None:
            seen.add(component)
            yield Example(device, component, message.time, content)
    refused = Quarantined.objects.filter(device=device).alias(size=Length("payload")).filter(size__lte=_LARGEST)
    for row in refused[:_MESSAGES]:
        component = _component_of(row.topic)
        if component in named and (content := _content(row.payload)) is not None:
            yield Example(device, component, row.last_received_at, content, row.pk, row.get_reason_display())
            return


def _component_of(topic: str) -> str:
    try:
        return form.parse_topic(topic).component
    except Refused:
        return ""


def _content(payload: bytes | memoryview) -> dict[str, Any] | None:
    try:
        return proposal.example_of(payload)
    except ValidationError:
        return None
