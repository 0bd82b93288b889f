"""A time limit for a block, whatever it waits for: a frozen server, a lock, a process."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Code that has caught the interruption, or waits again while cleaning up, is interrupted again.
_AGAIN_SECONDS = 30.0


class TookTooLong(Exception):
    """The block did not end in time."""


@contextmanager
def most_seconds(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the block after so long. In the main thread only, which gets signals; not nested."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Only the main thread can be interrupted.")

    def interrupt(*_: Any) -> None:
        raise TookTooLong(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
