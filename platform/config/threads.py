"""Django's ASGI handler with a whole request, middleware and view, in one thread that then serves the next request.

Django's own handler starts a thread for each request, and each middleware that works in both modes leaves the event
loop for it and comes back. Only streamed responses are sent from the event loop, by their own generators.
"""

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.http import FileResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix
from django.utils import translation

from tenants.infrastructure.database import release_connection

# A thread is started when no other is idle. Requests wait in threads too (for a share of the connections, for their
# turn as an expensive query), so there are more than there are connections.
MOST_THREADS = 256


class ThreadedHandler(ASGIHandler):
    """The handler of `config.asgi`. Requests take an idle thread; connections come from the pool."""

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)
        self._threads = ThreadPoolExecutor(MOST_THREADS, "request")

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        try:
            body_file = await self.read_body(receive)
        except RequestAborted:
            return
        # Of its own: a language or a time zone that one request sets is not that of the thread's next one.
        context = contextvars.copy_context()
        try:
            response, language = await self._in_thread(context.run, self._answer, scope, body_file)
            if response.streaming:
                # The language that the middleware has set is that of the generator too.
                translation.activate(language)
                await self._stream(response, receive, send)
                await self._in_thread(context.run, response.close)
            else:
                await self.send_response(response, send)
        finally:
            body_file.close()

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _answer(self, scope: Any, body_file: Any) -> tuple[Any, str]:
        """Return the response and its language, in the request's thread, whose connection is in the pool again."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, refusal = self.create_request(scope, body_file)
        response: Any = refusal if request is None else self.get_response(request)
        language = translation.get_language()
        response._handler_class = self.__class__
        if response.streaming:
            self._prepare_stream(response)
        else:
            response.close()
        return response, language

    def _prepare_stream(self, response: Any) -> None:
        """Let the stream go on without this thread."""
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        if not response.is_async:
            # A synchronous generator reads the tenant's schema, which is that of this thread.
            response.streaming_content = list(response.streaming_content)
        release_connection()

    async def _stream(self, response: HttpResponseBase, receive: Any, send: Any) -> None:
        """Send a stream until it ends or the client is gone."""
        sending = asyncio.ensure_future(self.send_response(response, send))
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leaving, sending):
                task.cancel()
            ended = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(ended[0], Exception):
            raise ended[0]
