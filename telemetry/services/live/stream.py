"""Readings of a tenant as server-sent events: the newest values, then each stored reading, without gaps."""

import logging
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from devices.services.notifications.event_stream import CHECK_SECONDS, KEEP_ALIVE_SECONDS
from devices.services.notifications.stream_hub import StreamHub, Watcher, hub
from telemetry.services.queries.change_positions import PositionLost
from tenants.infrastructure.concurrency import Lease
from tenants.infrastructure.database import leave_request_thread
from tenants.infrastructure.retry import DATABASE_LOST

from .feed import LiveSubscriber, live_feeds
from .pages import LiveFilter, LivePage, components_of_types, latest_page, read_page

logger = logging.getLogger(__name__)

# How long a browser waits before it reconnects.
_RETRY_MILLISECONDS = 2000


async def readings(
    schema: str,
    after: str,
    wanted: LiveFilter,
    watcher: Watcher,
    *,
    latest_of: list[int] | None = None,
    has_latest: bool = True,
    lease: Lease | None = None,
) -> AsyncIterator[str]:
    """Yield server-sent events of the readings after an id while the watcher may watch.

    With `has_latest` the newest values come first, of the devices with the ids `latest_of`, None for all. Ends too when
    the database is unavailable: the client reconnects and resumes. The lease is released at the end.
    """
    center, feeds, subscriber = hub(), live_feeds(), LiveSubscriber(schema, watcher)
    try:
        await leave_request_thread()
        yield f"retry: {_RETRY_MILLISECONDS}\nid: {after}\n\n"
        stream = _Stream(center, subscriber, wanted, after)
        if has_latest:
            async for texts in _latest(center, schema, wanted, latest_of):
                yield frame("latest", after, texts)
        await center.join(subscriber)
        feeds.join(subscriber)
        # The permission may have ended before the hub could say so.
        subscriber.check()
        async for text in stream.follow():
            yield text
    except (*DATABASE_LOST, PositionLost) as error:
        logger.warning("A stream of readings of %s ends: %s", schema, error)
    finally:
        feeds.leave(subscriber)
        center.leave(subscriber)
        if lease is not None:
            lease.release()


def frame(kind: str, position: str, texts: Iterable[str]) -> str:
    """Return readings in the format of the stream."""
    return f"id: {position}\nevent: {kind}\ndata: [{', '.join(texts)}]\n\n"


async def _latest(
    center: StreamHub, schema: str, wanted: LiveFilter, devices: list[int] | None
) -> AsyncIterator[list[str]]:
    """Yield the newest values page by page, so that a stream never holds all of a large tenant."""
    after: Any = None
    while True:
        texts, after = await center.run_in_schema(schema, partial(latest_page, wanted, devices, after))
        if texts:
            yield texts
        if after is None:
            return


class _Stream:
    """A stream's place in the order of storing."""

    def __init__(self, center: StreamHub, subscriber: LiveSubscriber, wanted: LiveFilter, after: str) -> None:
        self._center, self._subscriber, self._wanted = center, subscriber, wanted
        self._after = after
        # Known from the first page that the stream reads by itself.
        self._place: tuple[float, ...] = ()
        self._sent_at = self._checked_at = time.monotonic()

    async def follow(self) -> AsyncIterator[str]:
        """Yield the events until the watcher may not watch any more, or the tenant's feed ends."""
        subscriber = self._subscriber
        while not subscriber.is_ended:
            if self._must_check() and not await self._check():
                return
            while subscriber.must_read:
                page = await self._read()
                for text in self._take(page):
                    yield text
            following = await subscriber.wait_page(self._pause())
            if following is not None and following.begin > self._place:
                subscriber.must_read = True  # another page between them was dropped
            elif following is not None:
                for text in self._take(following):
                    yield text
            if time.monotonic() - self._sent_at >= KEEP_ALIVE_SECONDS:
                self._sent_at = time.monotonic()
                # The id alone: a client whose filter selects little resumes near the end.
                yield f": still here\nid: {self._after}\n\n"

    def _must_check(self) -> bool:
        self._subscriber.must_check |= time.monotonic() - self._checked_at >= CHECK_SECONDS
        self._subscriber.must_check |= self._subscriber.watcher.seconds_left() <= 0
        return self._subscriber.must_check

    async def _check(self) -> bool:
        """Return whether the watcher may still watch; look up what it can see, and the components of the types."""
        self._subscriber.must_check, self._checked_at = False, time.monotonic()
        watcher = self._subscriber.watcher
        may_watch, of_types, visible = await self._center.run_in_schema(
            self._subscriber.schema,
            lambda: (watcher.may_watch(), components_of_types(self._wanted.types), watcher.visible_uuids()),
        )
        self._wanted = replace(self._wanted, of_types=of_types, visible=visible)
        self._subscriber.is_limited = visible is not None
        return may_watch

    async def _read(self) -> LivePage:
        self._subscriber.must_read = False
        page = await self._center.run_in_schema(self._subscriber.schema, lambda: read_page(self._after))
        self._place = self._place or page.begin
        self._subscriber.must_read |= page.has_more
        return page

    def _take(self, page: LivePage) -> list[str]:
        """Move behind the page, and return its event, or none."""
        texts = [one.text for one in page.readings if one.place > self._place and self._wanted.matches(one)]
        if page.place > self._place:
            self._place, self._after = page.place, page.end
        if not texts:
            return []
        self._sent_at = time.monotonic()
        return [frame("readings", self._after, texts)]

    def _pause(self) -> float:
        ends = min(self._sent_at + KEEP_ALIVE_SECONDS, self._checked_at + CHECK_SECONDS) - time.monotonic()
        return max(0.0, min(ends, self._subscriber.watcher.seconds_left()))
