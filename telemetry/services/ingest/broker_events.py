"""The broker's events about its own connections: they shorten the wait for a timeout, and are never evidence.

A disconnection after the device's last activity moves its deadline nearer; the checker then times the device out by
the usual rules, and any activity moves the deadline away again. A takeover or a discarded session only shows another
connection of the device. A connection shows nothing: the device's birth follows.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from uuid import UUID

from devices.domain.specs import DeviceSpec
from devices.services.presence import activity
from telemetry.services.pipeline import form
from telemetry.services.pipeline.results import Incoming, Refusal

logger = logging.getLogger(__name__)

# Topics of the broker and of the platform itself, on which no device may publish.
INTERNAL_PREFIX = "broker/"
PREFIX = INTERNAL_PREFIX + "event/"
TOPIC = f"{PREFIX}+"
_NO_LOSS = frozenset({"takenover", "takeover", "discarded"})


def apply(messages: Iterable[Incoming], resolve: Callable[[Iterable[UUID]], dict[UUID, DeviceSpec | None]]) -> int:
    """Shorten the deadlines of devices whose connection was lost, and return their number."""
    events = [message for message in messages if message.topic.startswith(PREFIX)]
    lost = dict(found for message in events if (found := read_disconnection(message)) is not None)
    if not lost:
        return 0
    specs = resolve(lost)
    return activity.shorten_deadlines(
        [(spec.tenant.schema, uuid, lost[uuid]) for uuid, spec in specs.items() if spec is not None]
    )


def read_disconnection(incoming: Incoming) -> tuple[UUID, datetime] | None:
    """Return the device and the time of a lost connection; None for any other event, which is ignored."""
    try:
        event = form.parse_object(incoming.payload)
        uuid = UUID(incoming.topic.removeprefix(PREFIX))
        is_lost = event.get("event") == "client.disconnected" and event.get("reason") not in _NO_LOSS
        at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC) if is_lost else None
    except (Refusal, ValueError, TypeError, KeyError, OverflowError) as error:
        logger.warning("The broker's event on %s is invalid: %s", incoming.topic, error)
        return None
    return (uuid, at) if at is not None else None
