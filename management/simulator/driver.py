"""One thread that serves many connections."""

import selectors
import time
from collections.abc import Callable, Sequence

from management.device_client.gwanje_device import Link

HOUSEKEEPING_EVERY = 0.25  # seconds between the turns of an idle connection


class Driver:
    """Serves each link when its socket is ready, and all of them at intervals."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = links
        self._selector = selectors.DefaultSelector()
        self._housekeeping_at = 0.0
        for link in links:
            link.selector = self._selector

    def serve(self, timeout: float) -> None:
        """Serve the sockets that become ready within `timeout` seconds; return after the first."""
        timeout = min(timeout, max(0.0, self._housekeeping_at - time.monotonic()))
        for key, events in self._selector.select(timeout):
            key.data.turn(readable=bool(events & selectors.EVENT_READ))
        if (now := time.monotonic()) >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_EVERY
            for link in self.links:
                link.turn()

    def serve_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Serve until `condition` holds, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition() and (left := deadline - time.monotonic()) > 0:
            self.serve(left)

    def leave(self, seconds: float) -> None:
        """Disconnect every link cleanly, wait for that, then release all resources."""
        for link in self.links:
            link.leave()
        self.serve_until(lambda: all(link.gone for link in self.links), seconds)
        for link in self.links:
            link.finish()
        self._selector.close()
