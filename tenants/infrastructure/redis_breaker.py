"""A circuit breaker in the pool of Redis connections: a process does not use a Redis that does not answer.

Each command to Redis has a time limit, and each caller can continue without it. But limits add up: a listener that
sends six commands a second to a frozen Redis does nothing but wait. The first timeout or lost connection opens the
breaker: every command fails at once, as if Redis were down, and one thread probes Redis until it answers.
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

# Pause between two probes: shortest and longest.
PAUSE_SECONDS = (0.05, 1.0)
_LOST = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)


class RedisUnavailable(redis_errors.ConnectionError):
    """The command was not sent, because Redis does not answer."""


class Breaker:
    """Closed while Redis answers. `probe` sends one command and raises RedisError or OSError. Thread-safe."""

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        # The process in which it is open, 0 for none: a forked process has no thread that would close it.
        self._open_in = 0

    @property
    def is_open(self) -> bool:
        """Return whether commands of this process fail at once."""
        return self._open_in == os.getpid()

    def check(self) -> None:
        """Raise RedisUnavailable while the breaker is open."""
        if self._open_in and self.is_open:
            raise RedisUnavailable("Redis does not answer; commands fail until it does")

    def open(self, error: BaseException) -> None:
        """Make every command fail until a probe is answered. Does nothing while it is open."""
        with self._lock:
            if self.is_open:
                return
            self._open_in = os.getpid()
        logger.warning("Redis does not answer (%s): commands fail until it does", error)
        threading.Thread(target=self._probe_until_answered, name="redis-probe", daemon=True).start()

    def _probe_until_answered(self) -> None:
        backoff = Backoff(*PAUSE_SECONDS)
        try:
            while not self._answers():
                time.sleep(backoff.fail())
            logger.info("Redis answers again")
        finally:
            # After any other error the next command must show it.
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
        """Return a connection of the pool. Raises RedisUnavailable at once while the breaker is open."""
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
    """Return a subclass of the connection class whose failures open the breaker."""

    class Guarded(plain):  # type: ignore[valid-type,misc]
        def connect(self) -> None:
            """Connect; a lost connection opens the breaker."""
            breaker.check()
            try:
                super().connect()
            except _LOST as error:
                breaker.open(error)
                raise

        def send_packed_command(self, *args: Any, **options: Any) -> None:
            """Send a command; a lost connection opens the breaker."""
            try:
                super().send_packed_command(*args, **options)
            except _LOST as error:
                breaker.open(error)
                raise

        def read_response(self, *args: Any, **options: Any) -> Any:
            """Return the response; a lost connection opens the breaker."""
            try:
                return super().read_response(*args, **options)
            except _LOST as error:
                breaker.open(error)
                raise

    return Guarded
