"""`manage.py export_tenant demo --output demo.zip`: exports all data of a tenant as one ZIP."""

import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from devices.services import audit
from telemetry.services.export.tenant_archive import TenantArchive
from tenants.infrastructure.retry import DATABASE_LOST
from tenants.infrastructure.tasks import run
from tenants.models import Tenant


class Command(BaseCommand):
    help = "Writes everything that a tenant owns into a ZIP: tables as NDJSON, and a manifest with their hashes."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("slug")
        parser.add_argument("--output", type=Path, required=True, help="the file to write; it must not exist")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        tenant = Tenant.objects.exclude(schema_name="public").filter(slug=options["slug"]).first()
        if tenant is None:
            raise CommandError(f"There is no tenant {options['slug']!r}.")
        output: Path = options["output"]
        if output.exists():
            raise CommandError(f"{output} already exists; remove it, or name another file.")
        run(
            tenant.schema_name,
            "telemetry.services.export.tenant_download.record_export",
            (audit.Named(None, "gwanje"),),
            {},
        )
        archive = TenantArchive(tenant)
        try:
            _write(archive, output)
        except DATABASE_LOST as error:
            raise CommandError(f"The database connection was lost and nothing was written: {error}") from error
        for file in archive.files:
            self.stdout.write(f"{file.rows:>12}  {file.name}")
        self.stdout.write(f"{output}: {output.stat().st_size} bytes, {sum(file.rows for file in archive.files)} rows")


def _write(archive: TenantArchive, output: Path) -> None:
    """Write under a temporary name until the archive is complete; remove it otherwise."""
    part = output.with_name(output.name + ".part")
    try:
        # A reader of the file has all data of the tenant.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for chunk in archive.chunks():
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        part.rename(output)
    finally:
        part.unlink(missing_ok=True)
