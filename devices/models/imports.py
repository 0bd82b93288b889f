"""Imports of devices: uploaded tables that are checked first, then registered row by row."""

import uuid
from datetime import timedelta
from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.translation import gettext_lazy as _

from tenants.infrastructure.resumable_jobs import UNDER_WAY, QueuedJob


class DeviceImport(QueuedJob):
    """A table of devices, and how many of its rows are registered. It never contains a secret.

    `position` is the number of rows that are done. A device without a UUID gets one that is derived from `namespace`
    and its row, so a row that is repeated after a crash writes to the same place in Vault.
    """

    # Longer than Vault and the broker may take for the rows of one step.
    LEASE = timedelta(seconds=120)

    class State(models.TextChoices):
        CHECKED = "checked", _("checked")
        WAITING = "waiting", _("waits for a worker")
        RUNNING = "running", _("running")
        DONE = "done", _("done")

    filename = models.CharField(_("file"), max_length=200, blank=True)
    # That a CSV was read in; empty for XLSX and JSON.
    encoding = models.CharField(_("encoding"), max_length=20, blank=True, default="", db_default="")
    state = models.CharField(_("state"), max_length=9, choices=State.choices, default=State.WAITING)
    note = models.CharField(_("note"), max_length=200, blank=True)
    # [row number, {column: cell}]; emptied when it is done.
    rows = models.JSONField(default=list, editable=False)
    skip_errors = models.BooleanField(_("without the rows that have errors"), default=False)
    total = models.PositiveIntegerField(_("rows"), default=0)
    position = models.PositiveIntegerField(default=0, editable=False)
    added = models.PositiveIntegerField(_("new"), default=0)
    updated = models.PositiveIntegerField(_("updated"), default=0)
    unchanged = models.PositiveIntegerField(_("unchanged"), default=0)
    refused = models.PositiveIntegerField(_("refused"), default=0)
    # The first refused rows: {"row", "errors": [{"column", "detail"}]}.
    problems = models.JSONField(default=list, editable=False)
    namespace = models.UUIDField(default=uuid.uuid4, editable=False)
    # The devices that it registered, in order; the credentials of the first `handed_over` are handed over.
    registered = ArrayField(models.UUIDField(), default=list, editable=False)
    handed_over = models.PositiveIntegerField(default=0, editable=False)
    created_by_id = models.BigIntegerField(null=True, editable=False)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            # For the workers' query of every minute.
            models.Index(fields=["id"], name="device_import_under_way", condition=models.Q(state__in=list(UNDER_WAY))),
        ]
        verbose_name = _("import of devices")
        verbose_name_plural = _("imports of devices")

    def __str__(self) -> str:
        return f"#{self.pk}"

    @property
    def to_hand_over(self) -> int:
        """Number of registered devices whose credentials are not handed over yet."""
        return len(self.registered) - self.handed_over

    def values_when_done(self) -> dict[str, Any]:
        return {"rows": []}
