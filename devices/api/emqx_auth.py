"""Authentication of MQTT clients for EMQX over HTTP: an ASGI application of its own, separate from the API.

`POST /emqx/authenticate` answers in the form of EMQX 5.8's HTTP authentication: 200 with a `result`, or 503 while
the database is unavailable. After a 503 EMQX continues with its next authenticator; as there is none, it rejects the
client. It uses no framework, since the whole fleet reconnects at once after an outage.
"""

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from django.core.exceptions import ImproperlyConfigured

from devices.services.broker.auth_batcher import AuthBatcher
from devices.services.broker.auth_throttle import AuthThrottle
from devices.services.broker.authentication import AuthResult, AuthUnavailable, LoginAttempt

logger = logging.getLogger(__name__)

PATH = "/emqx/authenticate"
HEADER = b"x-broker-key"
SHORTEST_KEY = 32
_LARGEST_BODY = 16 * 1024
_MEMBERS = ("clientid", "username", "password", "peerhost")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Answer = tuple[int, dict[str, Any]]


class EmqxAuthApp:
    """Answers EMQX. Every request without a valid key receives 401 with an empty body."""

    def __init__(self, keys: Sequence[str], batcher: AuthBatcher, throttle: AuthThrottle) -> None:
        if not keys or any(len(key) < SHORTEST_KEY for key in keys):
            raise ImproperlyConfigured(
                f"BROKER_KEYS must contain the key that EMQX sends in the header {HEADER.decode()}: random text of"
                f" at least {SHORTEST_KEY} characters."
            )
        self._keys = [_digest(key.encode()) for key in keys]
        self._batcher, self._throttle = batcher, throttle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await _send(send, *await self._answer(scope, receive))
        else:
            raise ValueError(f"Only HTTP is supported, not {scope['type']}.")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._batcher.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                self._batcher.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        if not self._has_key(scope["headers"]):
            return 401, {}
        if scope["path"] != PATH:
            return 404, {"detail": f"The only address is {PATH}."}
        if scope["method"] != "POST":
            return 405, {"detail": "Use POST."}
        body = await _read(receive)
        if body is None:
            return 413, {"detail": f"A login has at most {_LARGEST_BODY} bytes."}
        try:
            login = parse_login(body)
        except ValueError as error:
            return 400, {"detail": str(error)}
        return await self._authenticate(login)

    def _has_key(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Return whether the header contains a valid key. All keys are compared, in constant time."""
        shown = _digest(b"".join(value for name, value in headers if name.lower() == HEADER))
        return any([hmac.compare_digest(key, shown) for key in self._keys])  # noqa: C419 (a list: with every one)

    async def _authenticate(self, login: LoginAttempt) -> Answer:
        if self._throttle.blocks(login):
            return 200, {"result": "deny"}
        try:
            result = await self._batcher.authenticate(login)
        except AuthUnavailable as error:
            return 503, {"detail": str(error)}
        if self._throttle.record(login, result.allowed):
            logger.warning(
                "Too many wrong passwords from %s: unknown clients from it are rejected for a minute", login.address
            )
        if not result.allowed:
            logger.info("Login rejected: %.64r from %s", login.name, login.address)
        return 200, answer_of(result)


def parse_login(body: bytes) -> LoginAttempt:
    """Return the login of EMQX's request. Raises ValueError that names the setting of EMQX to correct."""
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"The body is not JSON: {error}") from error
    values = [sent.get(member, "") for member in _MEMBERS] if isinstance(sent, dict) else []
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != len(_MEMBERS):
        raise ValueError(f"The body must be an object of strings: {', '.join(_MEMBERS)}.")
    client_id, name, password, address = texts
    return LoginAttempt(client_id, name, password, address)


def answer_of(result: AuthResult) -> dict[str, Any]:
    """Return the result in EMQX's format; `expire_at`, in whole seconds, is when EMQX closes the connection."""
    if not result.allowed:
        return {"result": "deny"}
    answer = {"result": "allow", "is_superuser": False, "client_attrs": result.attributes}
    if result.expires_at is not None:
        answer["expire_at"] = int(result.expires_at.timestamp())
    return answer


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


async def _read(receive: Receive) -> bytes | None:
    """Return the request's body; None if it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _send(send: Send, status: int, body: dict[str, Any]) -> None:
    content = orjson.dumps(body) if body else b""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
