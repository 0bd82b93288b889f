"""Server-sent events: readings as they are stored, and status changes of devices."""

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
from httpx_sse import connect_sse

from .answers import raise_for_problem
from .generated.client import AuthenticatedClient

_PAUSE_SECONDS = 1.0
# The platform sends a comment at least this often.
_SILENCE_SECONDS = 60.0


class Event(NamedTuple):
    """An event of a stream: `id` resumes after it, `name` is its kind, `data` the parsed JSON."""

    id: str
    name: str
    data: Any


def events(
    client: AuthenticatedClient, path: str = "/api/v1/readings/stream/", last_event_id: str = "", **filters: Any
) -> Iterator[Event]:
    """Yield the events of a stream, which is resumed where a connection ends. Raises ApiProblem when it is refused."""
    session = client.get_httpx_client()
    while True:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        timeout = httpx.Timeout(_SILENCE_SECONDS)
        try:
            with connect_sse(session, "GET", path, params=filters, headers=headers, timeout=timeout) as source:
                if source.response.status_code >= 400:
                    raise_for_problem(source.response.status_code, source.response.read())
                for event in source.iter_sse():
                    last_event_id = event.id or last_event_id
                    # Without data it only sets the id or the pause.
                    if event.data:
                        yield Event(event.id, event.event, json.loads(event.data))
        except httpx.TransportError:
            pass
        time.sleep(_PAUSE_SECONDS)
