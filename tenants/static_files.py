"""Middleware that serves static files: servestatic's, for synchronous handlers too.

servestatic's own is asynchronous: in a synchronous chain each request, and not only one for a file, would pass an event
loop of its own.
"""

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import async_to_sync
from django.http import Http404, HttpRequest
from django.utils.decorators import sync_and_async_middleware
from servestatic.middleware import ServeStaticMiddleware


@sync_and_async_middleware
def serve_static(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Answer requests for static files, and pass on all others."""
    if iscoroutinefunction(get_response):
        return ServeStaticMiddleware(get_response)
    files = ServeStaticMiddleware(_no_file)
    answer_file = async_to_sync(files.__call__)

    def answer(request: HttpRequest) -> Any:
        if not request.path_info.startswith(files.static_prefix):
            return get_response(request)
        try:
            return answer_file(request)
        except Http404:
            return get_response(request)

    return answer


async def _no_file(_request: HttpRequest) -> Any:
    raise Http404
