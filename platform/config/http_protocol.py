"""uvicorn's HTTP protocol with bounds on the head of a request and on connections: `--http config.http_protocol:…`.

uvicorn itself waits for a head without end, accepts one of any length, and any number of connections.
"""

import logging
import time
from asyncio import Transport
from asyncio.events import TimerHandle
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
HEAD_BYTES = 32 * 1024
CONNECTIONS_PER_ADDRESS = 1000
_WARNING_SECONDS = 60.0


class BoundedHttpProtocol(HttpToolsProtocol):
    """A connection that must send the head of each request within seconds, and a head of bounded length."""

    # Of this process. Connections of trusted proxies are not counted: each is of another client.
    open_connections: ClassVar[Counter[str]] = Counter()
    _warned_at = float("-inf")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: TimerHandle | None = None
        self._head_bytes = 0
        self._is_in_head = True
        self._counted = ""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Count the connection, and close it where its address has too many."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not _is_proxy(address):
            self._counted = address
            self.open_connections[address] += 1
            if self.open_connections[address] > CONNECTIONS_PER_ADDRESS:
                self._warn(address)
                transport.abort()
                return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the count."""
        super().connection_lost(exc)
        self._end_head()
        if self._counted:
            self.open_connections[self._counted] -= 1
            if self.open_connections[self._counted] <= 0:
                del self.open_connections[self._counted]
            self._counted = ""

    def data_received(self, data: bytes) -> None:
        """Parse the data; refuse a head that is too long."""
        super().data_received(data)
        if self._is_in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response(f"The head of a request must not be longer than {HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        """End the head of the request."""
        self._end_head()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._end_head()
        self._is_in_head, self._head_bytes = True, 0
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_silent)

    def _end_head(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_silent(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _warn(self, address: str) -> None:
        now = time.monotonic()
        if now - BoundedHttpProtocol._warned_at > _WARNING_SECONDS:
            BoundedHttpProtocol._warned_at = now
            logger.warning(
                "%s has more than %d connections: further ones are closed. Where it is a proxy, add it to"
                " TRUSTED_PROXIES.",
                address,
                CONNECTIONS_PER_ADDRESS,
            )


def _is_proxy(address: str) -> bool:
    # The settings are read once the application has been loaded, which is after this module.
    from django.conf import settings

    from tenants.infrastructure.client_address import comes_from_proxy

    return bool(settings.TRUSTED_PROXIES) and comes_from_proxy(address, settings.TRUSTED_PROXIES)
