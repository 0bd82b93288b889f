"""Redis that does not answer is left alone by the whole process until it does: a circuit breaker in the pool.

Each use of Redis has a time limit, and each is prepared to go on without it. But limits add up: a listener that asks
a frozen Redis for six things a second waits for nothing else. So the first time-out or lost connection opens the
breaker; from then on every use fails at once, as if Redis were down, and one thread asks now and then until it answers.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from redis import exceptions as redis_errors
from redis.connection import Connection, ConnectionPool
from redis.exceptions import RedisError, ResponseError

from .retry import Backoff

logger = logging.getLogger(__name__)

# Between two probes: growing from the first to the second.
PAUSE_SECONDS = (0.05, 1.0)
_LOST = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)


class RedisAway(redis_errors.ConnectionError):
    """Redis was not asked, because it did not answer lately."""


class Breaker:
    """Closed while Redis answers. `probe` asks it once, and raises what a lost Redis raises. For any threads."""

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        # The process in which it is open, 0 for none: a fork has no thread that could close it.
        self._open_in = 0

    @property
    def is_open(self) -> bool:
        return self._open_in == os.getpid()

    def check(self) -> None:
        """Raises RedisAway while it is open."""
        if self._open_in and self.is_open:
            raise RedisAway("Redis did not answer lately and is not asked again until it does")

    def open(self, error: BaseException) -> None:
        """Let nobody ask until a probe is answered. Once it is open, nothing."""
        with self._lock:
            if self.is_open:
                return
            self._open_in = os.getpid()
        logger.warning("Redis does not answer (%s): it is left alone until it does", error)
        threading.Thread(target=self._probe_until_answered, name="redis-probe", daemon=True).start()

    def _probe_until_answered(self) -> None:
        backoff = Backoff(*PAUSE_SECONDS)
        try:
            while not self._answers():
                time.sleep(backoff.fail())
            logger.info("Redis answers again")
        finally:
            # Whatever else went wrong here, who asks next is to see it.
            self._open_in = 0

    def _answers(self) -> bool:
        try:
            self._probe()
        except (RedisError, OSError):
            return False
        return True


class BreakerPool(ConnectionPool):
    """A connection pool with a breaker over all its connections."""

    def __init__(self, connection_class: type[Connection] = Connection, **options: Any) -> None:
        self._plain_class = connection_class
        self.breaker = Breaker(self._ask)
        super().__init__(connection_class=_guarded(connection_class, self.breaker), **options)

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """As the pool does. Raises RedisAway at once while the breaker is open."""
        self.breaker.check()
        return super().get_connection()

    def _ask(self) -> None:
        connection = self._plain_class(**self.connection_kwargs)
        try:
            connection.connect()
            connection.send_command("PING")
            connection.read_response()
        except ResponseError as answer:
            logger.info("Redis answers a probe with an error: %s", answer)
        finally:
            connection.disconnect()


def _guarded(plain: type[Connection], breaker: Breaker) -> type[Connection]:
    """The same connection, whose failures open the breaker."""

    class Guarded(plain):  # type: ignore[valid-type,misc]
        def connect(self) -> None:
            breaker.check()
            try:
                super().connect()
            except _LOST as error:
                breaker.open(error)
                raise

        def send_packed_command(self, *args: Any, **options: Any) -> None:
            try:
                super().send_packed_command(*args, **options)
            except _LOST as error:
                breaker.open(error)
                raise

        def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return super().read_response(*args, **options)
            except _LOST as error:
                breaker.open(error)
                raise

    return Guarded
