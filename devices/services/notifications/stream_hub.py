"""The hub of event streams: one connection to Redis for all streams of a process, and the threads that read for them.

Each stream is a subscriber with a bounded queue. A stream whose queue overflows reads PostgreSQL, page by page, at the
speed of its reader.
"""

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from django.conf import settings
from django.db import connections, transaction
from django_redis import get_redis_connection
from django_tenants.utils import schema_context
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from devices.services import object_changes
from tenants.infrastructure.retry import DATABASE_LOST
from tenants.infrastructure.secret_values import reveal

from . import status_feed
from .status_feed import StatusEvent

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Events that wait for one stream; a stream that has more reads PostgreSQL.
QUEUE_EVENTS = 100
# How often PostgreSQL is polled while Redis is unavailable.
POLL_SECONDS = 2.0
# How long a new stream waits for the confirmation of its subscription.
_CONFIRMED_WITHIN = 1.0
# How often tenants with streams of a part of their devices are read for changes of devices and places.
SELECTION_SECONDS = 1.0
# A connection without an answer for two beats is lost.
_BEAT_SECONDS = 10.0
# Other work of the process has its turn after so many messages.
_MESSAGES_PER_TURN = 50
_ENDS = "gwanje:stream_ends"
# Threads that read for all streams of the process, and those that one tenant can occupy.
READER_THREADS = 4
READER_THREADS_PER_TENANT = 2
_readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="stream-reader")
_LOST = (RedisError, OSError)


class Watcher(Protocol):
    """Who follows a stream, and the check that they still may."""

    @property
    def key_id(self) -> int:
        """The API key's id; 0: a person."""

    @property
    def user_id(self) -> int:
        """The person's id; 0: a key."""

    @property
    def session(self) -> str:
        """The key of the person's session."""

    @property
    def visible(self) -> frozenset[str] | None:
        """The UUIDs of the devices that they could see when the stream was opened; None: all."""

    def seconds_left(self) -> float:
        """Return the time after which the permission must be checked; infinite for one without an end."""

    def may_watch(self) -> bool:
        """Query, in the tenant's schema, whether the permission still holds."""

    def visible_uuids(self) -> frozenset[str] | None:
        """Query, in the tenant's schema, the UUIDs of the devices that they can see; None: all."""


def end_streams(schema: str = "", *, key_id: int = 0, user_id: int = 0, session: str = "") -> None:
    """Make streams check their permission now, after the commit: those of a tenant ("": of all) that match all values.

    A stream ends when its permission is gone. An unavailable Redis is logged: the streams check every 30 seconds.
    """
    selection = {"schema": schema, "key_id": key_id, "user_id": user_id, "session": session}

    def publish() -> None:
        try:
            get_redis_connection("default").publish(_ENDS, json.dumps(selection))
        except RedisError as error:
            logger.warning("Redis is unavailable (%s): event streams check their permission later", error)

    transaction.on_commit(publish)


def hub() -> "StreamHub":
    """Return the hub of the running event loop."""
    return _hubs.setdefault(asyncio.get_running_loop(), StreamHub())


class Subscriber:
    """A stream at the hub: its queue, and its tasks before it waits again."""

    def __init__(self, schema: str, watcher: Watcher, last: int) -> None:
        self.schema, self.watcher, self.last = schema, watcher, last
        # Whether it has the events of some devices only; which, changes with the devices.
        self.is_limited = watcher.visible is not None
        # PostgreSQL may have events that are not in the queue; the permission must be checked.
        self.must_read, self.must_check = True, False
        self._events: deque[StatusEvent] = deque()
        self._changed = asyncio.Event()

    def add(self, event: StatusEvent) -> None:
        """Queue an event; a full queue is emptied, and the stream reads PostgreSQL."""
        if len(self._events) >= QUEUE_EVENTS:
            self._events.clear()
            self.read()
        elif not self.must_read:
            self._events.append(event)
        self._changed.set()

    def read(self) -> None:
        """Make the stream read PostgreSQL."""
        self.must_read = True
        self._changed.set()

    def check(self) -> None:
        """Make the stream check its permission."""
        self.must_check = True
        self._changed.set()

    async def wait(self, seconds: float) -> StatusEvent | None:
        """Return the next event; None after `seconds`, or when the stream must read or check."""
        if not (self._events or self.must_read or self.must_check):
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
        if self.must_read or self.must_check or not self._events:
            return None
        return self._events.popleft()

    def matches(self, selection: dict[str, Any]) -> bool:
        """Return whether `end_streams` selects this stream."""
        own = {
            "schema": self.schema,
            "key_id": self.watcher.key_id,
            "user_id": self.watcher.user_id,
            "session": self.watcher.session,
        }
        return all(not value or own.get(name) == value for name, value in selection.items())


class StreamHub:
    """The subscription of a process, for one event loop."""

    def __init__(self) -> None:
        # By channel: the streams, and whether its subscription is confirmed.
        self._subscribers: dict[str, set[Subscriber]] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None
        self._selections = SelectionWatch(self)
        self._is_unavailable = False
        self._heard_at = 0.0

    async def join(self, subscriber: Subscriber) -> None:
        """Add a stream, and wait until its tenant's channel is subscribed or Redis is unavailable."""
        channel = status_feed.channel(subscriber.schema)
        self._subscribers.setdefault(channel, set()).add(subscriber)
        if channel not in self._confirmed:
            self._confirmed[channel] = asyncio.Event()
            await self._send("SUBSCRIBE", channel)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="stream-hub")
            self._selections.start()
        if not self._is_unavailable:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CONFIRMED_WITHIN):
                    await self._confirmed[channel].wait()

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a stream; the last one closes the connection."""
        channel = status_feed.channel(subscriber.schema)
        subscribers = self._subscribers.get(channel, set())
        subscribers.discard(subscriber)
        if subscribers or channel not in self._subscribers:
            return
        del self._subscribers[channel], self._confirmed[channel]
        self._turns.pop(subscriber.schema, None)
        if self._subscribers:
            self._later(self._unsubscribe(channel))
        elif self._task is not None:
            self._task.cancel()
            self._task = None
            self._selections.stop()

    def limited_subscribers(self) -> dict[str, list[Subscriber]]:
        """Return the streams that have the events of some devices only, by schema."""
        found: dict[str, list[Subscriber]] = {}
        for subscriber in (one for subscribers in self._subscribers.values() for one in subscribers):
            if subscriber.is_limited:
                found.setdefault(subscriber.schema, []).append(subscriber)
        return found

    async def run_in_schema(self, schema: str, function: Callable[[], T]) -> T:
        """Return the function's result in the schema, in one of the readers' threads; closes its connections."""

        def run() -> T:
            try:
                with schema_context(schema):
                    return function()
            finally:
                connections.close_all()

        # A tenant whose tables are locked must not occupy all readers.
        turn = self._turns.setdefault(schema, asyncio.Semaphore(READER_THREADS_PER_TENANT))
        async with turn:
            return await asyncio.get_running_loop().run_in_executor(_readers, run)

    # --- the connection ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except _LOST as error:
                self._note_lost(error)
            except Exception as error:
                logger.exception("The subscription of the event streams failed")
                self._note_lost(error)
            await self._poll()
            await asyncio.sleep(POLL_SECONDS)

    async def _follow(self) -> None:
        """Receive messages until the connection is lost. Raises RedisError and OSError."""
        # Without retries: an automatic reconnection would hide lost messages.
        pool = ConnectionPool.from_url(
            reveal(settings.REDIS_URL), protocol=2, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        connection = pool.make_connection()
        beat = asyncio.create_task(self._beat(connection))
        try:
            await connection.connect()
            self._connection = connection
            await connection.send_command("SUBSCRIBE", _ENDS, *self._subscribers)
            while True:
                for _ in range(_MESSAGES_PER_TURN):
                    message = await connection.read_response(disable_decoding=True, timeout=math.inf)
                    self._heard_at = time.monotonic()
                    self._receive(message)
                await asyncio.sleep(0)
        finally:
            beat.cancel()
            if self._connection is connection:
                self._connection = None
            with suppress(*_LOST):
                await connection.disconnect(nowait=True)

    async def _beat(self, connection: Any) -> None:
        """Send a PING at intervals, and close a connection that does not answer."""
        self._heard_at = time.monotonic()
        with suppress(*_LOST):
            while True:
                await asyncio.sleep(_BEAT_SECONDS)
                if time.monotonic() - self._heard_at > 2 * _BEAT_SECONDS:
                    await connection.disconnect(nowait=True)
                elif connection.is_connected:
                    await connection.send_command("PING", check_health=False)

    def _receive(self, message: list[Any]) -> None:
        kind, name = message[0], message[1].decode()
        if kind == b"subscribe":
            self._is_unavailable = False
            # Events before the confirmation were missed.
            if name in self._confirmed:
                self._confirmed[name].set()
            for subscriber in self._subscribers.get(name, ()):
                subscriber.read()
        elif kind == b"message" and name == _ENDS:
            self._check(json.loads(message[2]))
        elif kind == b"message" and name in self._subscribers:
            event = status_feed.parse(message[2])
            for subscriber in self._subscribers[name]:
                subscriber.add(event)

    def _check(self, selection: dict[str, Any]) -> None:
        for subscriber in [subscriber for subscribers in self._subscribers.values() for subscriber in subscribers]:
            if subscriber.matches(selection):
                subscriber.check()

    async def _poll(self) -> None:
        """Make the streams with newer events in PostgreSQL read them."""
        for subscribers in list(self._subscribers.values()):
            schema = next(iter(subscribers)).schema
            try:
                newest = await self.run_in_schema(schema, status_feed.last_position)
            except DATABASE_LOST:
                newest = None  # The streams find it out, and end.
            for subscriber in subscribers:
                if newest is None or newest > subscriber.last:
                    subscriber.read()

    async def _send(self, *command: str) -> None:
        connection = self._connection
        # A command on a connection that is not connected would connect it again.
        if connection is not None and connection.is_connected:
            # A lost connection is found by its reader, which subscribes again.
            with suppress(*_LOST):
                await connection.send_command(*command, check_health=False)

    async def _unsubscribe(self, channel: str) -> None:
        if channel not in self._subscribers:  # Another stream may have joined meanwhile.
            await self._send("UNSUBSCRIBE", channel)

    def _note_lost(self, error: BaseException) -> None:
        if not self._is_unavailable:
            logger.warning("Redis is unavailable (%s): event streams read PostgreSQL", error)
        self._is_unavailable = True
        for confirmed in self._confirmed.values():
            confirmed.clear()

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


class SelectionWatch:
    """Makes streams of some devices select these again when devices or places of their tenant were changed.

    It follows the changes of objects, in whichever process they were made. A tenant without such streams is not read.
    """

    def __init__(self, center: StreamHub) -> None:
        self._center = center
        self._positions: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(), name="stream-selections")

    def stop(self) -> None:
        """End the watch."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SELECTION_SECONDS)
            limited = self._center.limited_subscribers()
            self._positions = {schema: self._positions[schema] for schema in limited if schema in self._positions}
            for schema, subscribers in limited.items():
                try:
                    position = await self._center.run_in_schema(schema, _last_change_of_selections)
                except DATABASE_LOST:
                    continue  # The streams find it out, and end.
                except Exception:
                    logger.exception("Changes of the devices of %s could not be read", schema)
                    continue
                if self._positions.get(schema) != position:
                    self._positions[schema] = position
                    for subscriber in subscribers:
                        subscriber.check()


def _last_change_of_selections() -> int:
    return object_changes.newest_of(("devices", "places"))


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, StreamHub] = WeakKeyDictionary()
# The loop itself holds its tasks weakly.
_tasks: set[asyncio.Future[Any]] = set()
