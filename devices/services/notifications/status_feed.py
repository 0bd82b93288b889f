"""The feed of status changes for event streams: by position from PostgreSQL, and live through Redis.

A change has a position from the moment that it is published. PostgreSQL is authoritative; Redis only spares the streams
from polling it.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from uuid import UUID

from django.db.models import QuerySet
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from devices.models import StatusChange, StatusFeed

logger = logging.getLogger(__name__)

_PAGE = 500


@dataclass(frozen=True, slots=True)
class StatusEvent:
    """A change in the feed; times are ISO 8601, `suppressed_by` says why it was not published to apps ("": it was)."""

    position: int
    device: str
    old: str
    new: str
    cause: str
    session: str
    evidence_at: str
    at: str
    suppressed_by: str

    @property
    def data(self) -> dict[str, str | None]:
        """Return the members of the event, by the names of the API."""
        return {
            "device": self.device,
            "from": self.old,
            "to": self.new,
            "cause": self.cause,
            "session": self.session,
            "evidence_at": self.evidence_at,
            "at": self.at,
            "suppressed_by": self.suppressed_by or None,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Events after a position, in order, and the position up to which there are no others."""

    events: list[StatusEvent]
    upto: int
    is_last: bool


def channel(schema: str) -> str:
    """Return the Redis channel of a tenant's events."""
    return f"gwanje:status:{schema}"


def event_of(change: StatusChange) -> StatusEvent:
    """Return the event of a change that has a position; its device must be loaded."""
    return StatusEvent(
        position=change.position or 0,
        device=str(change.device.uuid),
        old=change.from_status,
        new=change.to_status,
        cause=change.cause,
        session=change.session,
        evidence_at=time_text(change.evidence_at),
        at=time_text(change.at),
        suppressed_by=change.suppressed_by,
    )


def time_text(time: datetime) -> str:
    """Return the time as ISO 8601 in UTC, with Z as in the API."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def announce(schema: str, changes: Iterable[StatusChange]) -> None:
    """Send committed changes to live streams. An unavailable Redis is logged: the streams read them from PostgreSQL."""
    try:
        pipeline = get_redis_connection("default").pipeline(transaction=False)
        for change in changes:
            pipeline.publish(channel(schema), json.dumps(asdict(event_of(change))))
        pipeline.execute()
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): event streams of %s receive changes later", error, schema)


def parse(message: bytes) -> StatusEvent:
    """Return the event in a message of the channel."""
    return StatusEvent(**json.loads(message))


def last_position() -> int:
    """Return the last position assigned in the current tenant; 0 if none."""
    return StatusFeed.objects.values_list("position", flat=True).first() or 0


def give_positions(changes: Sequence[StatusChange]) -> None:
    """Number the changes in order, after all others. The caller must hold the tenant's lock."""
    feed, _ = StatusFeed.objects.select_for_update().get_or_create(pk=1)
    for position, change in enumerate(changes, start=feed.position + 1):
        change.position = position
    feed.position += len(changes)
    feed.save(update_fields=["position"])


def read(after: int, device: UUID | None = None) -> Page:
    """Return the current tenant's events after a position, of one device or of all, at most 500.

    Changes committed later have a greater position than `upto`, so none is skipped.
    """
    upto = last_position()
    rows: QuerySet[StatusChange] = StatusChange.objects.filter(position__gt=after, position__lte=upto)
    if device is not None:
        rows = rows.filter(device__uuid=device)
    events = [event_of(row) for row in rows.select_related("device").order_by("position")[:_PAGE]]
    is_last = len(events) < _PAGE
    return Page(events, upto if is_last else events[-1].position, is_last)
