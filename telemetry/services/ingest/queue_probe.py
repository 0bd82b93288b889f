"""Probe messages of the listener's own through the broker: how long a message waits before it is read. No I/O.

`received_at` is the time of reading, so that the ages of messages do not include their time in the broker's queue. The
listener publishes a probe now and then, with the quality of service of devices' messages; it comes back behind all
messages that wait.
"""

import secrets
from collections import OrderedDict

TOPIC_PREFIX = "broker/probe/"
PROBE_SECONDS = 2.0
# Of a listener that is not served for long, the newest: the oldest one's time stays.
_MAX_OUTSTANDING = 1000


class QueueProbe:
    """The probes of one listener. Times are seconds of the monotonic clock."""

    def __init__(self, client_id: str) -> None:
        self.topic = TOPIC_PREFIX + client_id
        # Probes of an earlier process in the same session have another name.
        self._run = secrets.token_hex(4)
        self._number = 0
        self._published: OrderedDict[int, float] = OrderedDict()
        self._measured = 0.0

    def next_payload(self, now: float) -> bytes:
        """Return the payload of a probe that is published now."""
        self._number += 1
        if len(self._published) < _MAX_OUTSTANDING:
            self._published[self._number] = now
        return f"{self._run}:{self._number}".encode()

    def receive(self, payload: bytes, now: float) -> None:
        """Note a probe that came back, and those before it: the broker keeps the order, or has lost them."""
        run, _, number = payload.partition(b":")
        if run.decode("ascii", "replace") != self._run or not number.isdigit():
            return
        while self._published and next(iter(self._published)) <= int(number):
            _number, published = self._published.popitem(last=False)
            self._measured = max(self._measured, now - published)

    def take_lag(self, now: float) -> float:
        """Return the longest wait in seconds since the last call; also of a probe that has not come back yet."""
        oldest = next(iter(self._published.values()), now)
        lag, self._measured = max(self._measured, now - oldest), 0.0
        return lag
