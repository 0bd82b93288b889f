"""The download of a tenant's archive over HTTP, and its audit row; for the API, the admin site and the command."""

from collections.abc import Callable
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone

from devices.services import audit, concurrency_limits
from tenants.infrastructure.concurrency import Lease
from tenants.infrastructure.database import current_schema
from tenants.models import Tenant

from . import tenant_archive


def record_export(acting_user: audit.Actor) -> None:
    """Record the export in the audit of the current tenant."""
    tenant = Tenant.objects.get(schema_name=current_schema())
    audit.record(acting_user, "export everything", tenant)


def download(
    request: HttpRequest, *, acting_user: audit.Actor, may_read: Callable[[], bool], lease: Lease
) -> StreamingHttpResponse:
    """Record the export and return the archive of the request's tenant as a streamed ZIP; its end releases the lease.

    An asynchronous server calls `may_read` repeatedly, and aborts the transfer when it returns False.
    """
    record_export(acting_user)
    tenant: Any = request.tenant  # type: ignore[attr-defined]
    is_async = isinstance(request, ASGIRequest)
    content: Any = (
        concurrency_limits.release_after(lease, tenant_archive.stream_archive(tenant, may_read))
        if is_async
        else concurrency_limits.release_after_sync(lease, tenant_archive.archive_chunks(tenant))
    )
    name = f"{tenant.slug}-{timezone.now():%Y%m%dT%H%M%SZ}.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingHttpResponse(content, content_type="application/zip", headers=headers)
