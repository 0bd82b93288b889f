"""Bodies and heads of requests over real connections: too long, too slow, too many."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn

from config import http_protocol
from config.http_protocol import BoundedHttpProtocol
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.request_bodies import (
    _TOO_LARGE,
    SMALL_BYTES,
    App,
    BodyLimits,
    BodyRefused,
    BoundedBodies,
    Receive,
    Scope,
    Send,
)
from tests.processes import free_port, wait_until
from tests.raw_http import RawRequest

LIMITS = BodyLimits(
    form_bytes=200_000,
    upload_bytes=1_000_000,
    large_per_address=2,
    large_at_once=3,
    grace_seconds=0.5,
    bytes_per_second=100_000,
)


class Application:
    """Reads the whole body, as Django does, and responds with its length once it is released."""

    def __init__(self) -> None:
        self.received = 0
        self.waits = threading.Event()
        self.waits.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] in ("http", "lifespan")
        if scope["type"] == "lifespan":
            return
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            self.received += len(message.get("body", b""))
            more = message.get("more_body", False)
        while not self.waits.is_set():
            await __import__("asyncio").sleep(0.01)
        content = str(size).encode()
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@pytest.fixture
def inner() -> Application:
    return Application()


@pytest.fixture
def bounded(inner: Application) -> BoundedBodies:
    return BoundedBodies(
        inner,
        LIMITS,
        is_upload=lambda path: path == "/upload",
        has_credentials=lambda scope: any(name == b"authorization" for name, _ in scope["headers"]),
        address_of=lambda scope: next((v.decode() for n, v in scope["headers"] if n == b"x-address"), "one"),
        refusal_body=lambda _scope, refused: ("text/plain", f"{refused.code.status} {refused}".encode()),
    )


@pytest.fixture
def serve() -> Iterator[Callable[[App], int]]:
    """Start a server for the application, and return its port."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: App) -> int:
        port = free_port()
        config = uvicorn.Config(
            app,
            port=port,
            http=BoundedHttpProtocol,
            ws="none",
            log_config=None,
            timeout_graceful_shutdown=1,
            proxy_headers=False,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        wait_until(lambda: server.started, 60, "the server does not start")
        return port

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def port(serve: Callable[[App], int], bounded: BoundedBodies) -> int:
    return serve(bounded)


KEY = "Authorization: Bearer x"
CLOSE = "Connection: close"


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


# --- length ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "most"),
    [
        ("/form", [], SMALL_BYTES),
        ("/upload", [], SMALL_BYTES),
        ("/form", [KEY], 200_000),
        ("/upload", [KEY], 1_000_000),
    ],
)
def test_a_declared_body_is_refused_before_it_is_read(
    port: int, inner: Application, path: str, headers: list[str], most: int
) -> None:
    with RawRequest(port) as request:
        request.head(path, *headers, f"Content-Length: {most + 1}")
        request.send(b"x" * 10_000)
        status, text = request.response()
    assert (status, inner.received) == (413, 0)
    assert f"must not be larger than {most} bytes" in text
    assert "connection: close" in text
    with RawRequest(port) as request:
        request.head(path, *headers, CLOSE, f"Content-Length: {most}").send(b"x" * most)
        assert request.response()[1].endswith(str(most))


def test_a_chunked_body_is_refused_once_it_is_too_long(port: int, inner: Application) -> None:
    with RawRequest(port) as request:
        request.head("/form", "Transfer-Encoding: chunked")
        request.send(chunked(*[b"x" * 10_000] * 20))
        status, text = request.response()
    assert status == 413, text
    assert inner.received <= SMALL_BYTES
    with RawRequest(port) as request:
        request.head("/form", "Transfer-Encoding: chunked", CLOSE).send(chunked(b"abc", b"de"))
        assert request.response()[1].endswith("\r\n\r\n5")


def test_without_the_bound_the_whole_body_arrives(serve: Callable[[App], int], inner: Application) -> None:
    with RawRequest(serve(inner)) as request:
        request.head("/form", CLOSE, "Content-Length: 3000000").send(b"x" * 3_000_000)
        assert request.response()[0] == 200
    assert inner.received == 3_000_000


def test_requests_without_a_body_and_after_each_other_on_one_connection(port: int) -> None:
    with RawRequest(port) as request:
        for _ in range(3):
            request.head("/form", method="GET")
        request.head("/form", "Content-Length: 4").send(b"abcd")
        request.head("/form", CLOSE, method="GET")
        assert request.response()[1].count("HTTP/1.1 200") == 5


# --- rate -----------------------------------------------------------------------------------------------------


def test_a_slow_body_ends_the_request(port: int, bounded: BoundedBodies) -> None:
    with RawRequest(port) as request:
        request.head("/form", KEY, "Content-Length: 100000")
        request.drip([b"x" * 100] * 200, 0.05)
        status, text = request.response()
    assert status == 408
    assert "at least 100000 bytes per second" in text
    assert len(bounded.large) == 0


def test_a_body_that_is_fast_enough_may_take_longer_than_the_grace(port: int) -> None:
    with RawRequest(port) as request:
        request.head("/upload", KEY, CLOSE, "Content-Length: 240000")
        request.drip([b"x" * 40_000] * 6, 0.15)
        assert request.response()[0] == 200


def test_a_slow_request_is_not_a_slow_body(port: int, inner: Application) -> None:
    inner.waits.clear()
    with RawRequest(port) as request:
        request.head("/form", KEY, CLOSE, "Content-Length: 3").send(b"abc")
        time.sleep(2 * LIMITS.grace_seconds)
        inner.waits.set()
        assert request.response()[0] == 200


# --- number ---------------------------------------------------------------------------------------------------


def test_large_bodies_are_counted_by_address_and_together(
    port: int, inner: Application, bounded: BoundedBodies
) -> None:
    inner.waits.clear()
    large = ("Content-Length: 70000", CLOSE)
    with ExitStack() as open_requests:

        def begin(address: str) -> RawRequest:
            request = open_requests.enter_context(RawRequest(port))
            request.head("/form", KEY, f"X-Address: {address}", *large).send(b"x" * 70_000)
            return request

        accepted = [begin("one"), begin("one")]
        wait_until(lambda: len(bounded.large) == 2, 60, "they are not received")
        assert begin("one").response()[0] == 429
        accepted.append(begin("two"))
        wait_until(lambda: len(bounded.large) == 3, 60, "it is not received")
        refused = begin("three").response()
        assert refused[0] == 503
        assert "retry-after: 5" in refused[1]
        small = open_requests.enter_context(RawRequest(port))
        small.head("/form", KEY, "X-Address: one", CLOSE, "Content-Length: 5").send(b"small")
        inner.waits.set()
        assert small.response()[0] == 200
        assert [request.response()[0] for request in accepted] == [200, 200, 200]
    wait_until(lambda: len(bounded.large) == 0, 60, "they are counted after their end")


def test_a_client_that_leaves_is_not_counted_any_more(port: int, bounded: BoundedBodies) -> None:
    request = RawRequest(port)
    request.head("/form", KEY, "Content-Length: 100000").send(b"x" * 70_000)
    wait_until(lambda: len(bounded.large) == 1, 60, "it is not counted")
    request.__exit__(None, None, None)
    wait_until(lambda: len(bounded.large) == 0, 60, "it is counted after its end")


# --- heads and connections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_does_not_come_closes_the_connection(port: int, monkeypatch: Any, begin: bytes) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    with RawRequest(port, timeout=10) as request:
        request.send(begin)
        request.drip([b"X-Slow: 1\r\n" if begin else b""] * 20, 0.05)
        began = time.monotonic()
        assert request.response() == (0, "")
    assert time.monotonic() - began < 5
    with RawRequest(port) as request:
        assert request.head("/", CLOSE, method="GET").response()[0] == 200


def test_a_long_head_is_refused(port: int) -> None:
    with RawRequest(port) as request:
        request.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        request.drip([b"X-Long: " + b"x" * 1000 + b"\r\n"] * 100, 0.001)
        assert request.response()[0] in (400, 0)  # 0: reset, where more was sent than read
    with RawRequest(port) as request:
        request.head("/", *[f"X-{n}: {'x' * 1000}" for n in range(20)], CLOSE, method="GET")
        assert request.response()[0] == 200


@pytest.mark.parametrize(("language", "word"), [("en", "percent-encoded"), ("ko", "퍼센트 인코딩")])
def test_a_head_that_is_not_http_gets_a_problem_document_at_the_api(port: int, language: str, word: str) -> None:
    with RawRequest(port) as request:
        request.send(f"GET /t/x/api/v1/devices/?search=온실 HTTP/1.1\r\nAccept-Language: {language}\r\n\r\n".encode())
        status, answer = request.response()
    head, _, body = answer.partition("\r\n\r\n")
    assert status == 400
    assert "content-type: application/problem+json" in head
    document = json.loads(body)
    assert (document["code"], document["status"]) == ("malformed", 400)
    assert word in document["detail"]


def test_a_head_that_is_not_http_gets_text_elsewhere(port: int) -> None:
    with RawRequest(port) as request:
        request.send("GET /온실 HTTP/1.1\r\n\r\n".encode())
        status, answer = request.response()
    assert status == 400
    assert "text/plain" in answer


@pytest.mark.parametrize(("language", "word"), [("en", "must not be larger"), ("ko", "최대")])
def test_a_refused_body_gets_a_problem_document_at_the_api(language: str, word: str) -> None:
    from config.asgi import _refusal_body

    refused = BodyRefused(ErrorCode.TOO_LARGE, _TOO_LARGE, most=100)
    scope = {"path": "/t/x/api/v1/devices/", "headers": [(b"accept-language", language.encode())]}
    kind, body = _refusal_body(scope, refused)
    document = json.loads(body)
    assert (kind, document["code"], document["status"]) == ("application/problem+json", "too_large", 413)
    assert word in document["detail"]
    assert _refusal_body(scope | {"path": "/t/x/admin/"}, refused)[0] == "text/plain; charset=utf-8"


def test_connections_of_one_address_are_counted(port: int, monkeypatch: Any, settings: Any) -> None:
    from tenants.infrastructure.client_address import parse_networks

    monkeypatch.setattr(http_protocol, "CONNECTIONS_PER_ADDRESS", 3)
    opened = BoundedHttpProtocol.open_connections
    with ExitStack() as idle:
        for _ in range(3):
            idle.enter_context(RawRequest(port))
        wait_until(lambda: opened["127.0.0.1"] == 3, 60, "they are not counted")
        with RawRequest(port) as fourth:
            assert fourth.head("/", CLOSE, method="GET").response()[0] == 0
        settings.TRUSTED_PROXIES = parse_networks(["127.0.0.1"])
        with RawRequest(port) as through_a_proxy:
            assert through_a_proxy.head("/", CLOSE, method="GET").response()[0] == 200
    wait_until(lambda: not opened, 60, "they are counted after their end")
    settings.TRUSTED_PROXIES = ()
    with RawRequest(port) as later:
        assert later.head("/", CLOSE, method="GET").response()[0] == 200
