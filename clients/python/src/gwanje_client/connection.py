"""Connections with an API key. Lost requests and answers are repeated, each POST under one Idempotency-Key."""

import random
import time
from uuid import uuid4

import httpx

from .generated.client import AuthenticatedClient

_IN_PROGRESS = 409
_REPEATED_STATUSES = {429, 502, 503, 504}
_LONGEST_WAIT_SECONDS = 60.0


class RepeatingTransport(httpx.BaseTransport):
    """Repeats what failed for a while: lost connections, 429, 502 to 504, and a POST whose first try is in progress.

    It waits as long as `Retry-After` says, otherwise 0.5 s, 1 s, 2 s and so on, with jitter.
    """

    def __init__(self, transport: httpx.BaseTransport, tries: int) -> None:
        self._transport, self._tries = transport, tries

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, again until it is answered or tried `tries` times."""
        if request.method == "POST" and "Idempotency-Key" not in request.headers:
            request.headers["Idempotency-Key"] = str(uuid4())
        for number in range(1, self._tries):
            try:
                response = self._transport.handle_request(request)
            except httpx.TransportError:
                time.sleep(_pause(number))
                continue
            if not _is_to_be_repeated(response):
                return response
            response.close()
            time.sleep(_retry_after(response, number))
        return self._transport.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def connect(base_url: str, api_key: str, *, timeout: float = 30.0, tries: int = 6) -> AuthenticatedClient:
    """Return a client of a tenant: `base_url` as `https://host/t/slug` or `https://slug.host`, `timeout` in seconds.

    Its headers and connections can be set as with every generated client.
    """
    transport = RepeatingTransport(httpx.HTTPTransport(), max(1, tries))
    return AuthenticatedClient(
        base_url=base_url.rstrip("/"),
        token=api_key,
        timeout=httpx.Timeout(timeout),
        httpx_args={"transport": transport},
    )


def _is_to_be_repeated(response: httpx.Response) -> bool:
    if response.status_code == _IN_PROGRESS:
        # Other conflicts have no Retry-After: they remain.
        return "Retry-After" in response.headers
    return response.status_code in _REPEATED_STATUSES


def _retry_after(response: httpx.Response, number: int) -> float:
    try:
        return min(float(response.headers["Retry-After"]), _LONGEST_WAIT_SECONDS)
    except (KeyError, ValueError):
        return _pause(number)


def _pause(number: int) -> float:
    return min(0.25 * 2**number, _LONGEST_WAIT_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
