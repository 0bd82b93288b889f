"""Status changes of a tenant as server-sent events: first from PostgreSQL, then live, without gaps or duplicates.

The tenant is a value here. A stream holds no database connection, no thread and no connection to Redis: the hub of its
process reads for all streams.
"""

import json
import logging
import time
from collections.abc import AsyncIterator
from uuid import UUID

from tenants.infrastructure.concurrency import Lease
from tenants.infrastructure.database import leave_request_thread
from tenants.infrastructure.retry import DATABASE_LOST

from . import status_feed
from .status_feed import StatusEvent
from .stream_hub import StreamHub, Subscriber, Watcher, hub

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 15.0
# How often the permission is checked again; PostgreSQL is read then too, in case Redis lost a message.
CHECK_SECONDS = 30.0
# How long a browser waits before it reconnects.
_RETRY_MILLISECONDS = 2000


async def events(
    schema: str, after: int, device: UUID | None, watcher: Watcher, lease: Lease | None = None
) -> AsyncIterator[str]:
    """Yield server-sent events of the changes after a position, of one device or all, while the watcher may watch.

    Ends too when the database is unavailable: the client reconnects and resumes after its last event. The lease is
    released at the end.
    """
    center, subscriber = hub(), Subscriber(schema, watcher, after)
    try:
        await leave_request_thread()
        yield f"retry: {_RETRY_MILLISECONDS}\nid: {after}\n\n"
        await center.join(subscriber)
        if subscriber.is_limited:
            # The devices may have been changed before the hub could say so.
            subscriber.check()
        async for text in _follow(center, subscriber, device):
            yield text
    except DATABASE_LOST as error:
        logger.warning("An event stream of %s ends, since the database is unavailable: %s", schema, error)
    finally:
        center.leave(subscriber)
        if lease is not None:
            # At once: the server may be stopping, and the client connects again to the next.
            lease.release()


def frame(event: StatusEvent) -> str:
    """Return the event in the format of the stream."""
    return f"id: {event.position}\nevent: status\ndata: {json.dumps(event.data, ensure_ascii=False)}\n\n"


def _check(watcher: Watcher) -> tuple[bool, frozenset[str] | None]:
    """Return whether the watcher may still watch, and which devices (None: all)."""
    may_watch = watcher.may_watch()
    return may_watch, watcher.visible_uuids() if may_watch else None


async def _follow(center: StreamHub, subscriber: Subscriber, device: UUID | None) -> AsyncIterator[str]:
    sent_at = checked_at = time.monotonic()
    visible = subscriber.watcher.visible
    while True:
        if subscriber.must_check or time.monotonic() - checked_at >= CHECK_SECONDS:
            subscriber.must_check = False
            may_watch, visible = await center.run_in_schema(subscriber.schema, lambda: _check(subscriber.watcher))
            if not may_watch:
                return
            subscriber.is_limited = visible is not None
            checked_at, subscriber.must_read = time.monotonic(), True
        while subscriber.must_read:
            subscriber.must_read = False
            page = await center.run_in_schema(subscriber.schema, lambda: status_feed.read(subscriber.last, device))
            for event in page.events:
                if visible is not None and event.device not in visible:
                    continue
                sent_at = time.monotonic()
                yield frame(event)
            subscriber.last = max(subscriber.last, page.upto)
            subscriber.must_read = subscriber.must_read or not page.is_last
        left = subscriber.watcher.seconds_left()
        subscriber.must_check = subscriber.must_check or left <= 0
        pause = min(min(sent_at + KEEP_ALIVE_SECONDS, checked_at + CHECK_SECONDS) - time.monotonic(), left)
        live_event = await subscriber.wait(max(0.0, pause))
        if live_event is not None and live_event.position == subscriber.last + 1:
            subscriber.last = live_event.position
            if device in (None, UUID(live_event.device)) and (visible is None or live_event.device in visible):
                sent_at = time.monotonic()
                yield frame(live_event)
        elif live_event is not None and live_event.position > subscriber.last:
            subscriber.must_read = True
        if time.monotonic() - sent_at >= KEEP_ALIVE_SECONDS:
            sent_at = time.monotonic()
            yield ": still here\n\n"
