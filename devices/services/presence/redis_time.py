"""The offset of the clock of Redis from the clock of this process."""

from datetime import timedelta


class ClockOffset:
    """How far the clock of Redis is ahead, moved by a request to Redis only as far as that request proves it wrong.

    A request proves the offset only to its duration: the script ran at an unknown time in between. An offset measured
    anew at each request would therefore differ from request to request, and an event that is recorded twice would
    be newer than itself. On one machine the offset stays zero, in each process.
    """

    def __init__(self) -> None:
        self.ahead = timedelta()

    def observe(self, least: timedelta, most: timedelta) -> None:
        """Move the offset into the range that a request allows.

        `least` is the time of Redis without the time of the answer's arrival, `most` without the time of sending.
        """
        self.ahead = min(max(self.ahead, least), most)
