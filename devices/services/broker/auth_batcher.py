"""Batches of logins to authenticate: a bounded queue and one thread, which authenticates all waiting logins together.

When thousands of devices reconnect, the database is queried a few times for hundreds of them, not twice for each.
A login is rejected at once when the queue is full, and after its time limit; an expired login is not authenticated.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import DatabaseError, connection

from devices.services.broker.authentication import AuthResult, AuthUnavailable, LoginAttempt

logger = logging.getLogger(__name__)

Authenticator = Callable[[Sequence[LoginAttempt]], list[AuthResult | AuthUnavailable]]
Answer = asyncio.Future[AuthResult]


@dataclass(frozen=True, slots=True)
class _Waiting:
    login: LoginAttempt
    answer: Answer
    until: float


class AuthBatcher:
    """Runs on one event loop; authenticates on a thread of its own, with a database connection of its own."""

    def __init__(
        self, authenticate: Authenticator, *, max_waiting: int = 2000, batch: int = 200, timeout: float = 2.0
    ) -> None:
        self._authenticate = authenticate
        self._max_waiting, self._batch, self._timeout = max_waiting, batch, timeout
        self._waiting: deque[_Waiting] = deque()
        self._something = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="login-batcher", daemon=True)
        self._stopping = False

    def start(self) -> None:
        """Start the thread, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; waiting logins fail at their time limit."""
        with self._something:
            self._stopping = True
            self._something.notify()
        self._thread.join(self._timeout)

    async def authenticate(self, login: LoginAttempt) -> AuthResult:
        """Return the result.

        Raises AuthUnavailable if too many logins wait, or the database does not respond in time.
        """
        answer: Answer = self._loop.create_future()
        with self._something:
            if len(self._waiting) >= self._max_waiting:
                raise AuthUnavailable(f"{self._max_waiting} logins are already waiting.")
            self._waiting.append(_Waiting(login, answer, time.monotonic() + self._timeout))
            self._something.notify()
        try:
            return await asyncio.wait_for(answer, self._timeout)
        except TimeoutError as error:
            raise AuthUnavailable(f"No result within {self._timeout} s.") from error

    def _work(self) -> None:
        try:
            while waiting := self._next():
                self._deliver(waiting, self._results([each.login for each in waiting]))
        finally:
            connection.close()

    def _next(self) -> list[_Waiting]:
        """Return the next batch without expired logins; empty at the end."""
        while True:
            with self._something:
                self._something.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return []
                count = min(len(self._waiting), self._batch)
                taken = [self._waiting.popleft() for _ in range(count)]
            now = time.monotonic()
            if current := [each for each in taken if each.until > now]:
                return current

    def _results(self, logins: Sequence[LoginAttempt]) -> Sequence[AuthResult | AuthUnavailable]:
        """Return the results. Retry once: the database may have restarted since the connection was opened."""
        for last in (False, True):
            try:
                return self._authenticate(logins)
            except DatabaseError as error:
                connection.close()
                reason = str(error)
                if last:
                    logger.warning("The database cannot authenticate logins: %s", error)
            except Exception:
                # The thread must go on; the logins of the batch are not admitted.
                logger.exception("Logins could not be authenticated")
                connection.close()
                reason = "An internal error."
                break
        return [AuthUnavailable(reason)] * len(logins)

    def _deliver(self, waiting: Sequence[_Waiting], results: Sequence[AuthResult | AuthUnavailable]) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, waiting, results)
        except RuntimeError:  # the event loop has ended, and the waiting logins with it
            logger.info("%d logins were authenticated too late", len(waiting))


def _settle(waiting: Sequence[_Waiting], results: Sequence[AuthResult | AuthUnavailable]) -> None:
    for each, result in zip(waiting, results, strict=True):
        if each.answer.done():
            continue
        if isinstance(result, AuthUnavailable):
            each.answer.set_exception(result)
        else:
            each.answer.set_result(result)
