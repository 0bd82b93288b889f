"""In which threads a request is served."""

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_only_middleware

GetResponse = Callable[[HttpRequest], HttpResponseBase]


@sync_only_middleware
def stay_in_thread(get_response: GetResponse) -> GetResponse:
    """The last of the middleware, which lets what is before it run in the request's thread in one go.

    Django's own middleware works both ways, and where what follows is asynchronous, as the handler is, each of them
    goes to the request's thread and back, once before the view and once after it.
    """
    return get_response
