"""What a broker says of its own connections: hints that shorten the wait, never evidence.

A disconnection after the device was last heard brings its deadline near; the time-out then is the checker's, by
the same rules as ever, and any sign of life moves the deadline away again. Being taken over or discarded says
only that another connection of the device came. That a device connected says nothing: its birth follows.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from devices.domain.specs import DeviceSpec
from devices.services.presence import activity
from telemetry.services.pipeline import form
from telemetry.services.pipeline.refusal import Refused
from telemetry.services.pipeline.results import Incoming

logger = logging.getLogger(__name__)

PREFIX = "broker/event/"
TOPIC = f"{PREFIX}+"
_NO_LOSS = frozenset({"takenover", "takeover", "discarded"})


@dataclass(frozen=True, slots=True)
class Hint:
    """The broker lost the device's connection at that time."""

    uuid: UUID
    at: datetime


def is_hint(incoming: Incoming) -> bool:
    """Whether the broker itself speaks."""
    return incoming.topic.startswith(PREFIX)


def read(incoming: Incoming) -> Hint | None:
    """The disconnection in the message; None for anything else, which is passed over."""
    try:
        event = form.parse_object(incoming.payload)
        uuid = UUID(incoming.topic.removeprefix(PREFIX))
        lost = event.get("event") == "client.disconnected" and event.get("reason") not in _NO_LOSS
        at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC) if lost else None
    except (Refused, ValueError, TypeError, KeyError, OverflowError) as error:
        logger.warning("An event of the broker on %s cannot be read: %s", incoming.topic, error)
        return None
    return Hint(uuid, at) if at is not None else None


def take(messages: Iterable[Incoming], resolve: Callable[[Iterable[UUID]], dict[UUID, DeviceSpec | None]]) -> int:
    """Shorten the deadlines of devices whose connection was lost. Returns how many were."""
    found = {hint.uuid: hint for message in messages if (hint := read(message)) is not None}
    if not found:
        return 0
    specs = resolve(found)
    return activity.shorten_deadlines(
        [(spec.tenant.schema, uuid, found[uuid].at) for uuid, spec in specs.items() if spec is not None]
    )
