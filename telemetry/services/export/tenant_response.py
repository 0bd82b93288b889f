"""The streamed file as an answer, for the API and the admin."""

from collections.abc import Callable
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone

from . import tenant_archive


def answer(request: HttpRequest, may_read: Callable[[], bool]) -> StreamingHttpResponse:
    """Everything that the request's tenant owns."""
    tenant: Any = request.tenant  # type: ignore[attr-defined]
    is_async = isinstance(request, ASGIRequest)
    content: Any = (
        tenant_archive.stream_archive(tenant, may_read) if is_async else tenant_archive.archive_chunks(tenant)
    )
    name = f"{tenant.slug}-{timezone.now():%Y%m%dT%H%M%SZ}.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingHttpResponse(content, content_type="application/zip", headers=headers)
