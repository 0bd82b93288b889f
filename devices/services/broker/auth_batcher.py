"""Where logins wait to be judged: a bounded queue, one thread, whatever waits judged together.

When thousands of devices come back at once the database is asked a few times for hundreds of them, not twice for each.
Who finds the queue full, or has waited too long, is told so at once; who gave up is not judged any more.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import DatabaseError, connection

from devices.services.broker.authentication import Login, LoginsUnavailable, Verdict

logger = logging.getLogger(__name__)

Judge = Callable[[Sequence[Login]], list[Verdict | LoginsUnavailable]]
Answer = asyncio.Future[Verdict]


@dataclass(frozen=True, slots=True)
class _Waiting:
    login: Login
    answer: Answer
    until: float


class LoginDesk:
    """Started and asked on one event loop; judges on a thread of its own, with a database connection of its own."""

    def __init__(self, judge: Judge, *, most_waiting: int = 2000, batch: int = 200, patience: float = 2.0) -> None:
        self._judge = judge
        self._most_waiting, self._batch, self._patience = most_waiting, batch, patience
        self._waiting: deque[_Waiting] = deque()
        self._something = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="login-desk", daemon=True)
        self._stopping = False

    def start(self) -> None:
        """Begin to judge, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Judge no more; who still waits is told when its patience ends."""
        with self._something:
            self._stopping = True
            self._something.notify()
        self._thread.join(self._patience)

    async def ask(self, login: Login) -> Verdict:
        """The verdict. Raises LoginsUnavailable when too many wait, or the database does not answer in time."""
        answer: Answer = self._loop.create_future()
        with self._something:
            if len(self._waiting) >= self._most_waiting:
                raise LoginsUnavailable(f"{self._most_waiting} logins are waiting already.")
            self._waiting.append(_Waiting(login, answer, time.monotonic() + self._patience))
            self._something.notify()
        try:
            return await asyncio.wait_for(answer, self._patience)
        except TimeoutError as error:
            raise LoginsUnavailable(f"No verdict within {self._patience} s.") from error

    def _work(self) -> None:
        try:
            while waiting := self._next():
                self._tell(waiting, self._verdicts([each.login for each in waiting]))
        finally:
            connection.close()

    def _next(self) -> list[_Waiting]:
        """The next batch, without those that gave up; nothing at the end."""
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

    def _verdicts(self, logins: Sequence[Login]) -> Sequence[Verdict | LoginsUnavailable]:
        """What is judged; tried twice, as the connection may be one to a database that was started anew meanwhile."""
        for last in (False, True):
            try:
                return self._judge(logins)
            except DatabaseError as error:
                connection.close()
                reason = str(error)
                if last:
                    logger.warning("The database does not say who may connect: %s", error)
            except Exception:
                # The thread must live; whoever asked is not let in.
                logger.exception("Logins could not be judged")
                connection.close()
                reason = "A fault of the platform's own."
                break
        return [LoginsUnavailable(reason)] * len(logins)

    def _tell(self, waiting: Sequence[_Waiting], verdicts: Sequence[Verdict | LoginsUnavailable]) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, waiting, verdicts)
        except RuntimeError:  # the event loop has ended, and everybody who waited with it
            logger.info("%d logins were judged too late", len(waiting))


def _settle(waiting: Sequence[_Waiting], verdicts: Sequence[Verdict | LoginsUnavailable]) -> None:
    for each, verdict in zip(waiting, verdicts, strict=True):
        if each.answer.done():
            continue
        if isinstance(verdict, LoginsUnavailable):
            each.answer.set_exception(verdict)
        else:
            each.answer.set_result(verdict)
