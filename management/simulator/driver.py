"""One thread that serves many connections."""

import selectors
import time
from collections.abc import Callable, Sequence

from management.device_client.gwanje_device import Link

HOUSEKEEPING_EVERY = 0.25  # seconds between the turns of a connection on which nothing happens


class Driver:
    """Turns each link when something happens on its socket, and all of them now and then."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = links
        self._selector = selectors.DefaultSelector()
        self._housekeeping_at = 0.0
        for link in links:
            link.selector = self._selector

    def serve(self, timeout: float) -> None:
        """Serve what happens within `timeout` seconds; returns earlier when something has happened."""
        timeout = min(timeout, max(0.0, self._housekeeping_at - time.monotonic()))
        for key, events in self._selector.select(timeout):
            key.data.turn(readable=bool(events & selectors.EVENT_READ))
        if (now := time.monotonic()) >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_EVERY
            for link in self.links:
                link.turn()

    def serve_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Serve until `condition` holds, `seconds` at most."""
        deadline = time.monotonic() + seconds
        while not condition() and (left := deadline - time.monotonic()) > 0:
            self.serve(left)

    def leave(self, seconds: float) -> None:
        """Say goodbye on every link and wait for the clean disconnects; then release everything."""
        for link in self.links:
            link.leave()
        self.serve_until(lambda: all(link.gone for link in self.links), seconds)
        for link in self.links:
            link.finish()
        self._selector.close()
