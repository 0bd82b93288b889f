"""The ZIP of a tenant's export: its files one after the other, and at its end a manifest of their contents and hashes.

A ZIP that cannot be finished has no directory at its end, so that no program opens it; over HTTP the transfer is
also broken off. A streamed export is not a resumable job: it has no state, and a client starts it again. Between two
pieces it holds neither a connection nor a tenant's schema.
"""

import hashlib
import logging
import time as clock
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from zipfile import ZIP_DEFLATED

import orjson
from asgiref.sync import sync_to_async
from django.db import connections
from django_tenants.utils import get_public_schema_name
from zipstream import ZipStream

from telemetry.services.export.readings import CHECK_SECONDS, ExportAborted
from tenants.infrastructure.database import run_in_schema
from tenants.infrastructure.retry import DATABASE_LOST
from tenants.models import Tenant

from . import tenant_pieces
from .tenant_readme import README, schema_document
from .tenant_tables import EXCLUDED, READINGS, TABLES, TENANT

logger = logging.getLogger(__name__)

FORMAT = 1
_LEVEL = 6


@dataclass(slots=True)
class ArchiveFile:
    """A file of the archive, with the counts of what was written so far."""

    name: str
    rows: int = 0
    bytes: int = 0
    sha256: str = ""


class TenantArchive:
    """An export in progress: `chunks` yields its bytes, `files` lists its files."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.files: list[ArchiveFile] = []
        self._began = datetime.now(UTC)

    def chunks(self) -> Iterator[bytes]:
        """Yield the ZIP in chunks. Raises the errors of a lost database; the ZIP is incomplete then."""
        archive = ZipStream(compress_type=ZIP_DEFLATED, compress_level=_LEVEL)
        schema = self.tenant.schema_name
        self._add(archive, "README.txt", iter([(README.encode(), 0)]))
        self._add(archive, "schema.json", iter([(schema_document(), 0)]))
        self._add(archive, f"{TENANT}.json", tenant_pieces.tenant_document(self.tenant))
        for table in TABLES:
            self._add(archive, f"{table.name}.ndjson", tenant_pieces.table_chunks(schema, table))
        self._add(archive, f"{READINGS}.ndjson", tenant_pieces.reading_chunks(schema))
        archive.add(self._manifest(), "manifest.json")
        yield from archive

    def _add(self, archive: ZipStream, name: str, content: Iterator[tuple[bytes, int]]) -> None:
        file = ArchiveFile(name)
        self.files.append(file)
        archive.add(_counted(file, content), name)

    def _manifest(self) -> Iterator[bytes]:
        """Written last, when the others are."""
        document = {
            "format": FORMAT,
            "tenant": self.tenant.slug,
            "began_at": self._began,
            "ended_at": datetime.now(UTC),
            "complete": True,
            "files": [asdict(file) for file in self.files],
            "left_out": {model._meta.label: reason for model, reason in EXCLUDED.items()},
        }
        yield orjson.dumps(document, option=orjson.OPT_UTC_Z | orjson.OPT_INDENT_2) + b"\n"


async def stream_archive(tenant: Tenant, may_read: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """Yield the ZIP for an asynchronous server. Raises ExportAborted when it cannot be finished."""
    chunks = TenantArchive(tenant).chunks()
    await sync_to_async(connections.close_all)()  # the one that the request's checks used
    checked_at, public = clock.monotonic(), get_public_schema_name()
    try:
        while (chunk := await run_in_schema(public, lambda: next(chunks, None))) is not None:
            if chunk:
                yield chunk
            if clock.monotonic() - checked_at >= CHECK_SECONDS:
                if not await run_in_schema(tenant.schema_name, may_read):
                    raise ExportAborted("The right to read ended.")
                checked_at = clock.monotonic()
    except DATABASE_LOST as error:
        logger.warning("An export of %s is aborted because the database is unavailable: %s", tenant.slug, error)
        raise ExportAborted("The database connection was lost.") from error


def archive_chunks(tenant: Tenant) -> Iterator[bytes]:
    """Yield the ZIP for a synchronous server. Raises ExportAborted when it cannot be finished."""
    try:
        yield from TenantArchive(tenant).chunks()
    except DATABASE_LOST as error:
        raise ExportAborted("The database connection was lost.") from error


def _counted(file: ArchiveFile, content: Iterator[tuple[bytes, int]]) -> Iterator[bytes]:
    """Yield the content, and record its rows, bytes and hash in the file's entry."""
    digest = hashlib.sha256()
    for piece, rows in content:
        digest.update(piece)
        file.rows += rows
        file.bytes += len(piece)
        yield piece
    file.sha256 = digest.hexdigest()
