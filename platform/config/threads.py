"""Middleware that keeps a request in one thread."""

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_only_middleware

GetResponse = Callable[[HttpRequest], HttpResponseBase]


@sync_only_middleware
def stay_in_thread(get_response: GetResponse) -> GetResponse:
    """Return the handler unchanged: as the last middleware it makes all others run in the request's thread at once.

    Django's own middleware works in both modes; before an asynchronous handler each of them switches to the request's
    thread and back, once before the view and once after it.
    """
    return get_response
