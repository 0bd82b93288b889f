"""Status changes of a tenant as server-sent events: first from PostgreSQL, then live, without gaps or duplicates.

The tenant is a value here, and no database connection is held: each query is one synchronous unit that enters the
tenant's schema, leaves it, and returns the connection.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from devices.services.notifications.status_feed import StatusEvent
from tenants.infrastructure.database import run_in_schema
from tenants.infrastructure.retry import DATABASE_LOST

from . import status_feed

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 15.0
# How often the permission is checked again; PostgreSQL is read then too, in case Redis lost a message.
CHECK_SECONDS = 30.0
# How often PostgreSQL is polled while Redis is unavailable.
POLL_SECONDS = 2.0
# How long a browser waits before it reconnects.
_RETRY_MILLISECONDS = 2000


async def events(schema: str, after: int, device: UUID | None, may_watch: Callable[[], bool]) -> AsyncIterator[str]:
    """Yield server-sent events of the changes after a position, of one device or all, while `may_watch` returns True.

    Ends too when the database is unavailable: the client reconnects and resumes after its last event.
    """
    live = _Live(status_feed.channel(schema))
    try:
        await sync_to_async(connections.close_all)()  # the connection that authenticated the request
        yield f"retry: {_RETRY_MILLISECONDS}\nid: {after}\n\n"
        async for text in _follow(live, schema, after, device, may_watch):
            yield text
    except DATABASE_LOST as error:
        logger.warning("An event stream of %s ends, since the database is unavailable: %s", schema, error)
    finally:
        await live.close()


def frame(event: StatusEvent) -> str:
    """Return the event in the format of the stream."""
    return f"id: {event.position}\nevent: status\ndata: {json.dumps(event.data, ensure_ascii=False)}\n\n"


async def _follow(
    live: "_Live", schema: str, last: int, device: UUID | None, may_watch: Callable[[], bool]
) -> AsyncIterator[str]:
    said_at = checked_at = time.monotonic()
    behind = False
    while True:
        # Subscribe before PostgreSQL is read, so that no change is missed between the two.
        behind = await live.open() or behind or not live.is_open
        while behind:
            page = await run_in_schema(schema, lambda: status_feed.read(last, device))  # noqa: B023 (called at once)
            for event in page.events:
                said_at = time.monotonic()
                yield frame(event)
            last, behind = max(last, page.upto), not page.is_last
        pause = min(said_at + KEEP_ALIVE_SECONDS, checked_at + CHECK_SECONDS) - time.monotonic()
        live_event = await live.next(max(0.0, pause))
        if live_event is not None and live_event.position == last + 1:
            last = live_event.position
            if device is None or live_event.device == str(device):
                said_at = time.monotonic()
                yield frame(live_event)
        behind = live_event is not None and live_event.position > last
        now = time.monotonic()
        if now - checked_at >= CHECK_SECONDS:
            if not await run_in_schema(schema, may_watch):
                return
            checked_at, behind = now, True
        if now - said_at >= KEEP_ALIVE_SECONDS:
            said_at = now
            yield ": still here\n\n"


class _Live:
    """The tenant's channel in Redis, while Redis is available."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._redis: Redis | None = None
        self._pubsub: Any = None
        self._is_unavailable = False

    @property
    def is_open(self) -> bool:
        return self._pubsub is not None

    async def open(self) -> bool:
        """Subscribe if not subscribed. Return whether it was done now: earlier messages were missed."""
        if self.is_open:
            return False
        try:
            self._pubsub = await self._subscribe()
        except RedisError as error:
            await self._give_up(error)
            return False
        self._is_unavailable = False
        return True

    async def _subscribe(self) -> Any:
        # Without retries: an automatic reconnection would hide lost messages.
        self._redis = Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=1, health_check_interval=10, retry=Retry(NoBackoff(), 0)
        )
        pubsub = self._redis.pubsub()
        await pubsub.subscribe(self._channel)
        if await pubsub.get_message(timeout=1) is None:
            raise RedisError("no answer to SUBSCRIBE")
        return pubsub

    async def _give_up(self, error: RedisError) -> None:
        if not self._is_unavailable:
            logger.warning("Redis is unavailable (%s): the events of %s are read from PostgreSQL", error, self._channel)
        self._is_unavailable = True
        await self.close()

    async def next(self, timeout: float) -> StatusEvent | None:
        """Return the next event; None after `timeout` seconds, or after POLL_SECONDS while Redis is unavailable."""
        if self._pubsub is None:
            await asyncio.sleep(min(timeout, POLL_SECONDS))
            return None
        try:
            message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=timeout)
        except RedisError as error:
            await self._give_up(error)
            return None
        return status_feed.parse(message["data"]) if message else None

    async def close(self) -> None:
        """Close the connection to Redis."""
        redis, self._redis, self._pubsub = self._redis, None, None
        if redis is not None:
            await redis.aclose()
