"""uvicorn's HTTP protocol with bounds on the head of a request and on connections: `--http config.http_protocol:…`.

uvicorn itself waits for a head without end, accepts one of any length, and any number of connections.
"""

import json
import logging
import re
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
_TOO_LONG = "The head of a request must not be longer than %(most)d bytes."
_ACCEPT_LANGUAGE = re.compile(rb"\r\naccept-language:([^\r\n]*)", re.IGNORECASE)


class BoundedHttpProtocol(HttpToolsProtocol):
    """A connection that must send the head of each request within seconds, and a head of bounded length."""

    # Of this process. Connections of trusted proxies are not counted: each is of another client.
    open_connections: ClassVar[Counter[str]] = Counter()
    _warned_at = float("-inf")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: TimerHandle | None = None
        self._head_bytes = 0
        self._head = b""
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
        self._head = ((self._head if self._is_in_head else b"") + data)[:HEAD_BYTES]
        super().data_received(data)
        if self._is_in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response(_TOO_LONG % {"most": HEAD_BYTES})

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed; one to the API gets a problem document, as from every other layer."""
        kind, content = refusal_of_head(self._head, msg)
        head = f"content-type: {kind}\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
        self.transport.write(b"".join([b"HTTP/1.1 400 Bad Request\r\n", head.encode(), content]))
        self.transport.close()

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


def refusal_of_head(head: bytes, text: str) -> tuple[str, bytes]:
    """Return content type and body of the response to a request that cannot be parsed."""
    # The settings are read once the application has been loaded, which is after this module.
    from django.utils import translation
    from django.utils.translation import gettext as _

    from tenants.api.problems import CONTENT_TYPE, is_for_api, language_of, problem
    from tenants.infrastructure.error_codes import ErrorCode

    if not is_for_api(head.partition(b"\r\n")[0].decode("latin-1")):
        return "text/plain; charset=utf-8", text.encode()
    accepted = _ACCEPT_LANGUAGE.search(head)
    with translation.override(language_of(accepted[1].decode("latin-1").strip() if accepted else "")):
        detail = _("The head of the request is not valid HTTP. In an address all but ASCII must be percent-encoded.")
        if len(head) >= HEAD_BYTES:
            detail = _("The head of a request must not be longer than %(most)d bytes.") % {"most": HEAD_BYTES}
        return CONTENT_TYPE, json.dumps(problem(ErrorCode.MALFORMED, detail)).encode()


def _is_proxy(address: str) -> bool:
    # The settings are read once the application has been loaded, which is after this module.
    from django.conf import settings

    from tenants.infrastructure.client_address import comes_from_proxy

    return bool(settings.TRUSTED_PROXIES) and comes_from_proxy(address, settings.TRUSTED_PROXIES)
