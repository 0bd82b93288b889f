"""gzip for the API's answers with data, where a client accepts it.

Not for pages and not for answers to a POST: the length of a compressed text that contains a secret and something that
a stranger chose reveals the secret (BREACH).
"""

import gzip
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.decorators import sync_only_middleware

from .api.entity_tags import COMPRESSED
from .api.problems import is_for_api

# A shorter answer fits into one packet.
LEAST_BYTES = 1024
# Half the size of the fastest level costs four times the time.
_LEVEL = 1
_KINDS = frozenset({"application/json", "application/x-ndjson", "text/csv", "application/vnd.oai.openapi+json"})
_ACCEPTS = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=(?P<q>[01](?:\.\d{1,3})?)\s*)?(?=,|$)", re.IGNORECASE)


@sync_only_middleware
def compress_answers(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Compress JSON, NDJSON and CSV of 1 KB or more in answers to GET and HEAD; streams as they are sent."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.method not in ("GET", "HEAD") or not is_for_api(request.path_info) or not _is_data(response):
            return response
        patch_vary_headers(response, ("Accept-Encoding",))
        if accepts_gzip(request.META.get("HTTP_ACCEPT_ENCODING", "")):
            _compress(response)
        return response

    return answer


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a header `Accept-Encoding` allows gzip."""
    found = _ACCEPTS.search(accept_encoding)
    return found is not None and float(found["q"] or 1) > 0


def _is_data(response: Any) -> bool:
    if response.status_code != 200 or response.has_header("Content-Encoding"):
        return False
    if not response.streaming and len(response.content) < LEAST_BYTES:
        return False
    return response.get("Content-Type", "").partition(";")[0].strip() in _KINDS


def _compress(response: Any) -> None:
    if response.streaming:
        # Set on the iterator: the response itself stays the one that ends the export when it is closed.
        wrap = _compressed_async if response.is_async else _compressed
        response.streaming_content = wrap(response.streaming_content)
        response.headers.pop("Content-Length", None)
    else:
        response.content = gzip.compress(response.content, _LEVEL, mtime=0)
        response.headers["Content-Length"] = str(len(response.content))
    response.headers["Content-Encoding"] = "gzip"
    if "ETag" in response.headers:
        # Of another sequence of bytes; `tenants.api.entity_tags` reads both.
        response.headers["ETag"] = response.headers["ETag"].removesuffix('"') + COMPRESSED


class _Buffer(io.BytesIO):
    def take(self) -> bytes:
        data = self.getvalue()
        self.seek(0)
        self.truncate()
        return data


def _compressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    buffer = _Buffer()
    with gzip.GzipFile(mode="wb", compresslevel=_LEVEL, fileobj=buffer, mtime=0) as file:
        for chunk in chunks:
            file.write(chunk)
            if data := buffer.take():
                yield data
    yield buffer.take()


async def _compressed_async(chunks: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    buffer = _Buffer()
    # Closed with this one: an export that a client leaves must end at once.
    async with aclosing(chunks):
        with gzip.GzipFile(mode="wb", compresslevel=_LEVEL, fileobj=buffer, mtime=0) as file:
            async for chunk in chunks:
                file.write(chunk)
                if data := buffer.take():
                    yield data
        yield buffer.take()
