"""What was taken over from an old server."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class RecordImport(models.Model):
    """How far the record of an old server, one file, has been taken over, and what became of it.

    `position` moves in the transaction that stores the messages before it, so that an import that is killed goes on
    where it was, and counts nothing twice. The old server verified these messages; here they are stored with
    signature 0, and as late.
    """

    file = models.CharField(max_length=255)
    # In bytes, of the file as it is when it is not compressed, and the SHA-256 of what is before it.
    position = models.BigIntegerField(default=0, editable=False)
    digest = models.CharField(max_length=64, blank=True, editable=False)
    line = models.BigIntegerField(default=0)
    read = models.BigIntegerField(default=0)
    stored = models.BigIntegerField(default=0)
    duplicates = models.BigIntegerField(default=0)
    # Reason → number, of those that are in quarantine.
    refused = models.JSONField(default=dict)
    # Lines that are no messages at all, and were left out.
    unreadable = models.BigIntegerField(default=0)
    started_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            # Nothing that was read is lost; `refused` is counted by the code.
            models.CheckConstraint(
                condition=models.Q(read__gte=models.F("stored") + models.F("duplicates") + models.F("unreadable")),
                name="import_reads_what_it_stores",
            ),
        ]
        verbose_name = _("import of an old record")
        verbose_name_plural = _("imports of old records")

    def __str__(self) -> str:
        return self.file
