"""ASGI middleware that bounds the bodies of requests before the application reads them.

Django writes a body to a file before it knows who sends it. Here its length is checked first: as declared, and while it
arrives; a body that arrives too slowly ends the request; and only some large bodies are received at a time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from tenants.infrastructure.error_codes import ErrorCode

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# A body up to this size is cheap: it is neither counted, nor must its sender have credentials.
SMALL_BYTES = 64 * 1024
# What is read of a refused body, so that the client can read the response before the connection is closed.
_DRAINED_BYTES = 1024 * 1024
_DRAIN_SECONDS = 1.0
_RETRY_SECONDS = 5
_TOO_LARGE = _("The body of this request must not be larger than %(most)d bytes.")
_TOO_MANY_OF_ADDRESS = _("At most %(most)d large requests of one address are received at a time.")
_TOO_MANY = _("At most %(most)d large requests are received at a time.")
_TOO_SLOW = _("The body must arrive within %(seconds)s seconds, or with at least %(rate)d bytes per second after them.")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of one process: bytes of a body by kind of request, large bodies at a time, seconds and bytes per second.

    A body must have arrived after `grace_seconds` and a second more for each `bytes_per_second`.
    """

    form_bytes: int
    upload_bytes: int
    large_per_address: int
    large_at_once: int
    grace_seconds: float = 15.0
    bytes_per_second: int = 4096


class BodyRefused(Exception):
    """The request is refused with this code, before the application has all of its body. `text` is translated late."""

    def __init__(self, code: ErrorCode, text: Promise, **values: object) -> None:
        super().__init__(text, values)
        self.code, self._text, self._values = code, text, values

    def __str__(self) -> str:
        return str(self._text) % self._values


class LargeBodies:
    """The large bodies that this process is receiving or working on, by the sender's address. For one event loop."""

    def __init__(self, per_address: int, at_once: int) -> None:
        self._per_address, self._at_once = per_address, at_once
        self._counts: Counter[str] = Counter()

    def add(self, address: str) -> None:
        """Count a body. Raises BodyRefused."""
        if self._counts[address] >= self._per_address:
            raise BodyRefused(ErrorCode.TOO_MANY_AT_ONCE, _TOO_MANY_OF_ADDRESS, most=self._per_address)
        if self._counts.total() >= self._at_once:
            raise BodyRefused(ErrorCode.BUSY, _TOO_MANY, most=self._at_once)
        self._counts[address] += 1

    def remove(self, address: str) -> None:
        """Remove a body from the count."""
        self._counts[address] -= 1
        if self._counts[address] <= 0:
            del self._counts[address]

    def __len__(self) -> int:
        return self._counts.total()


class BoundedBodies:
    """The middleware. `is_upload` returns whether a path takes files, `address_of` the address of a request's client.

    `refusal_body` returns content type and body of the response to a refused request.
    """

    def __init__(
        self,
        app: App,
        limits: BodyLimits,
        *,
        is_upload: Callable[[str], bool],
        has_credentials: Callable[[Scope], bool],
        address_of: Callable[[Scope], str],
        refusal_body: Callable[[Scope, BodyRefused], tuple[str, bytes]],
    ) -> None:
        self._app, self._limits = app, limits
        self._is_upload, self._has_credentials, self._address_of = is_upload, has_credentials, address_of
        self._refusal_body = refusal_body
        self.large = LargeBodies(limits.large_per_address, limits.large_at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a bounded body, or refuse it and close the connection."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        is_started = False

        async def watched_send(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        body = _Body(receive, self._most(scope), self._limits, self.large, self._address_of(scope))
        try:
            body.check_declared(_declared(scope))
            await self._app(scope, body.receive, watched_send)
        except BodyRefused as refused:
            if is_started:
                raise
            await self._refuse(scope, receive, send, refused)
        finally:
            body.close()

    def _most(self, scope: Scope) -> int:
        if not self._has_credentials(scope):
            return SMALL_BYTES
        return self._limits.upload_bytes if self._is_upload(scope["path"]) else self._limits.form_bytes

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refused: BodyRefused) -> None:
        kind, content = self._refusal_body(scope, refused)
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        if refused.code.status in (429, 503):
            headers.append((b"retry-after", str(_RETRY_SECONDS).encode()))
        await send({"type": "http.response.start", "status": refused.code.status, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": True})
        # A connection that is closed with unread data is reset, and the client would not see the response.
        with suppress(TimeoutError):
            await asyncio.wait_for(_drain(receive), _DRAIN_SECONDS)
        await send({"type": "http.response.body", "body": b""})


class _Body:
    """The body of one request while it is received."""

    def __init__(self, receive: Receive, most: int, limits: BodyLimits, large: LargeBodies, address: str) -> None:
        self._receive, self._most, self._limits, self._large, self._address = receive, most, limits, large, address
        self._began = time.monotonic()
        self._received = 0
        self._is_complete = self._is_counted = False

    def check_declared(self, length: int | None) -> None:
        """Check the declared length. Raises BodyRefused."""
        if length is not None:
            self._check(length)

    async def receive(self) -> Message:
        """Return the next message of the server. Raises BodyRefused."""
        if self._is_complete:
            return await self._receive()
        message = await self._next()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._check(self._received)
            self._is_complete = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        limits = self._limits
        due = self._began + limits.grace_seconds + self._received / limits.bytes_per_second
        try:
            return await asyncio.wait_for(self._receive(), max(0.0, due - time.monotonic()))
        except TimeoutError as error:
            raise BodyRefused(
                ErrorCode.TIMEOUT, _TOO_SLOW, seconds=f"{limits.grace_seconds:g}", rate=limits.bytes_per_second
            ) from error

    def _check(self, size: int) -> None:
        if size > self._most:
            raise BodyRefused(ErrorCode.TOO_LARGE, _TOO_LARGE, most=self._most)
        if size > SMALL_BYTES and not self._is_counted:
            self._large.add(self._address)
            self._is_counted = True

    def close(self) -> None:
        """End the count of the body."""
        if self._is_counted:
            self._large.remove(self._address)


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _value in scope["headers"])


def _declared(scope: Scope) -> int | None:
    """Return the declared length; None for a chunked body. The server has checked that the header is a number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


async def _drain(receive: Receive) -> None:
    size = 0
    while size < _DRAINED_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
