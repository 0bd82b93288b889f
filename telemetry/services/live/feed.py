"""The live readings of a tenant in a process: read once for all of its streams, and not at all without a stream."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from django.db import connections
from django_tenants.utils import schema_context

from devices.services.notifications.status_feed import StatusEvent
from devices.services.notifications.stream_hub import Subscriber, Watcher
from telemetry.services.queries.change_positions import PositionLost
from tenants.infrastructure.retry import DATABASE_LOST

from .pages import LivePage, newest_id, read_page

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)

# How often a watched tenant is read.
POLL_SECONDS = 0.5
# Pages that wait for one stream; a stream that has more reads by itself.
_QUEUE_PAGES = 20
# Threads of their own: streams that are far behind occupy those of the hub.
_LIVE_THREADS = 2
_live = ThreadPoolExecutor(_LIVE_THREADS, thread_name_prefix="live-reader")


class LiveSubscriber(Subscriber):
    """A stream of readings: its queue of pages. It joins the hub for the checks of its permission alone."""

    def __init__(self, schema: str, watcher: Watcher) -> None:
        super().__init__(schema, watcher, 0)
        self.is_ended = False
        self._pages: deque[LivePage] = deque()

    def add(self, event: StatusEvent) -> None:
        """Ignore a status change."""

    def add_page(self, page: LivePage) -> None:
        """Queue a page; a full queue is emptied, and the stream reads by itself."""
        if len(self._pages) >= _QUEUE_PAGES:
            self._pages.clear()
            self.must_read = True
        elif not self.must_read:
            self._pages.append(page)
        self._changed.set()

    def end(self) -> None:
        """End the stream."""
        self.is_ended = True
        self._changed.set()

    async def wait_page(self, seconds: float) -> LivePage | None:
        """Return the next page; None after `seconds`, or when the stream must read, check or end."""
        if not (self._pages or self.must_read or self.must_check or self.is_ended):
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
        if self.must_read or self.must_check or self.is_ended or not self._pages:
            return None
        return self._pages.popleft()


class LiveFeeds:
    """The watched tenants of a process, for one event loop."""

    def __init__(self) -> None:
        self._subscribers: dict[str, set[LiveSubscriber]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def join(self, subscriber: LiveSubscriber) -> None:
        """Add a stream; the first one of a tenant begins to read it."""
        self._subscribers.setdefault(subscriber.schema, set()).add(subscriber)
        if subscriber.schema not in self._tasks:
            self._tasks[subscriber.schema] = asyncio.create_task(self._run(subscriber.schema), name="live-feed")

    def leave(self, subscriber: LiveSubscriber) -> None:
        """Remove a stream; the last one of a tenant ends its reading."""
        subscribers = self._subscribers.get(subscriber.schema, set())
        subscribers.discard(subscriber)
        if not subscribers and (task := self._tasks.pop(subscriber.schema, None)) is not None:
            self._subscribers.pop(subscriber.schema, None)
            task.cancel()

    async def _run(self, schema: str) -> None:
        try:
            after = await _in_schema(schema, newest_id)
            while True:
                page = await _in_schema(schema, read_page, after)
                after = page.end
                if page.place > page.begin:
                    for subscriber in list(self._subscribers.get(schema, ())):
                        subscriber.add_page(page)
                await asyncio.sleep(0 if page.has_more else POLL_SECONDS)
        except (*DATABASE_LOST, PositionLost) as error:
            logger.warning("The live readings of %s end: %s", schema, error)
        except Exception:
            logger.exception("The live readings of %s end", schema)
        # The streams end too; their clients connect again, after the last event that each has received.
        self._tasks.pop(schema, None)
        for subscriber in self._subscribers.pop(schema, set()):
            subscriber.end()


def live_feeds() -> LiveFeeds:
    """Return the feeds of the running event loop."""
    return _feeds.setdefault(asyncio.get_running_loop(), LiveFeeds())


async def _in_schema(schema: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Return the function's result in the schema, in one of the live readers' threads; closes its connections."""

    def run() -> T:
        try:
            with schema_context(schema):
                return function(*arguments, **named)
        finally:
            connections.close_all()

    return await asyncio.get_running_loop().run_in_executor(_live, run)


_feeds: WeakKeyDictionary[asyncio.AbstractEventLoop, LiveFeeds] = WeakKeyDictionary()
