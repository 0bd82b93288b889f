"""Imports of an old server's record of messages."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from tenants.infrastructure.resumable_jobs import ResumableJob


class LegacyImport(ResumableJob):
    """The import of one file of an old server's recorded messages: its progress and the results.

    `position` is an offset in bytes in the uncompressed file. The old server verified these messages; they are stored
    with signature 0, and as late.
    """

    file = models.CharField(max_length=255)
    # The SHA-256 of the bytes before the position.
    digest = models.CharField(max_length=64, blank=True, editable=False)
    line = models.BigIntegerField(default=0)
    read = models.BigIntegerField(default=0)
    stored = models.BigIntegerField(default=0)
    duplicates = models.BigIntegerField(default=0)
    # Reason → number of messages in quarantine.
    refused = models.JSONField(default=dict)
    # Lines that are not messages and were left out.
    unreadable = models.BigIntegerField(default=0)
    started_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "telemetry_recordimport"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            # No line that was read is lost; the code counts `refused`.
            models.CheckConstraint(
                condition=models.Q(read__gte=models.F("stored") + models.F("duplicates") + models.F("unreadable")),
                name="import_reads_what_it_stores",
            ),
        ]
        verbose_name = _("legacy import")
        verbose_name_plural = _("legacy imports")

    def __str__(self) -> str:
        return self.file
