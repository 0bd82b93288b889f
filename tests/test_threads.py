"""In which threads requests are served, and what one request leaves to the next in its thread."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from django.db import connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils import translation

from config.threads import ThreadedHandler
from tests.processes import run_at_once


class Served:
    """A handler whose requests are answered by `view`, without middleware."""

    def __init__(self, view: Callable[[HttpRequest], Any]) -> None:
        # The stubs lack the chain.
        handler = cast("Any", ThreadedHandler())
        handler._middleware_chain = view
        self.handler = handler

    def get(self) -> list[dict[str, Any]]:
        """Return the messages of an answer."""
        return asyncio.run(self.answer())

    async def answer(self, gone: asyncio.Event | None = None) -> list[dict[str, Any]]:
        """Return the messages of an answer; the client leaves when `gone` is set."""
        sent: list[dict[str, Any]] = []
        received = [{"type": "http.request", "body": b""}]

        async def receive() -> dict[str, Any]:
            if received:
                return received.pop()
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.handler(_SCOPE, receive, send)
        return sent


_SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "GET",
    "path": "/",
    "query_string": b"",
    "headers": [(b"host", b"localhost")],
    "http_version": "1.1",
    "scheme": "http",
}


def _body(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(message.get("body", b"") for message in messages[1:])


def test_requests_one_after_the_other_share_threads() -> None:
    seen: list[str] = []

    def view(_request: HttpRequest) -> HttpResponse:
        seen.append(threading.current_thread().name)
        return HttpResponse("yes")

    served = Served(view)
    assert [_body(served.get()) for _ in range(20)] == [b"yes"] * 20
    # A thread may be about to become idle when the next request comes.
    assert len(set(seen)) < 5


def test_a_request_that_waits_holds_up_no_other() -> None:
    first, second = threading.Barrier(2, timeout=20), threading.Barrier(2, timeout=20)

    def view(_request: HttpRequest) -> HttpResponse:
        first.wait()  # both are in progress
        second.wait()
        return HttpResponse("yes")

    served = Served(view)
    assert run_at_once([lambda: _body(served.get())] * 2) == [b"yes", b"yes"]


def test_a_request_leaves_no_language_to_the_next_in_its_thread() -> None:
    seen: list[str] = []

    def view(_request: HttpRequest) -> HttpResponse:
        seen.append(translation.get_language())
        translation.activate("ko")
        return HttpResponse()

    served = Served(view)
    for _ in range(10):
        served.get()
    assert set(seen) == {"en"}


def test_a_stream_has_the_language_of_its_request_and_no_thread() -> None:
    async def parts() -> AsyncIterator[str]:
        yield f"{translation.get_language()} {threading.current_thread() is loop_thread}"

    def view(_request: HttpRequest) -> StreamingHttpResponse:
        translation.activate("ko")
        return StreamingHttpResponse(parts())

    loop_thread = threading.current_thread()
    assert _body(Served(view).get()) == b"ko True"


def test_a_synchronous_generator_runs_in_the_thread_of_its_request() -> None:
    def view(_request: HttpRequest) -> StreamingHttpResponse:
        mine = threading.current_thread()
        return StreamingHttpResponse(str(threading.current_thread() is mine) for _ in range(2))

    assert _body(Served(view).get()) == b"TrueTrue"


def test_a_stream_ends_when_its_client_leaves() -> None:
    ended = threading.Event()

    async def parts(gone: asyncio.Event) -> AsyncIterator[str]:
        try:
            yield "one"
            gone.set()
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def leave() -> None:
        gone = asyncio.Event()
        served = Served(lambda _request: StreamingHttpResponse(parts(gone)))
        assert _body(await served.answer(gone)) == b"one"

    asyncio.run(leave())
    assert ended.is_set()


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_leaves_no_transaction_and_closes_what_it_has_opened(db: None, is_stream: bool) -> None:
    closed: list[bool] = []

    async def parts() -> AsyncIterator[str]:
        yield "one"

    def view(_request: HttpRequest) -> Any:
        response: Any = StreamingHttpResponse(parts()) if is_stream else HttpResponse("one")
        response._resource_closers.append(lambda: closed.append(connection.in_atomic_block))
        return response

    assert _body(Served(view).get()) == b"one"
    assert closed == [False]
