"""Tables of devices that were uploaded: looked through first, then registered row by row."""

import uuid
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class DeviceImport(models.Model):
    """A table of devices, and how far it is registered. No secret is ever in it.

    `position` is the number of rows that are done: whoever goes on begins there, and moves it in the transaction that
    registers the rows. A device without a UUID gets one that follows from `namespace` and its row, so that a row which
    is done again after a crash finds the same place in Vault.
    """

    class State(models.TextChoices):
        CHECKED = "checked", _("checked")
        WAITING = "waiting", _("waits for a worker")
        RUNNING = "running", _("running")
        DONE = "done", _("done")

    filename = models.CharField(_("file"), max_length=200, blank=True)
    state = models.CharField(_("state"), max_length=9, choices=State.choices, default=State.WAITING)
    note = models.CharField(_("note"), max_length=200, blank=True)
    # [row number, {column: cell}], until it is done.
    rows = models.JSONField(default=list, editable=False)
    skip_errors = models.BooleanField(_("without the rows that have errors"), default=False)
    total = models.PositiveIntegerField(_("rows"), default=0)
    position = models.PositiveIntegerField(default=0, editable=False)
    added = models.PositiveIntegerField(_("new"), default=0)
    updated = models.PositiveIntegerField(_("updated"), default=0)
    unchanged = models.PositiveIntegerField(_("unchanged"), default=0)
    refused = models.PositiveIntegerField(_("refused"), default=0)
    # The first of what was refused: {"row", "errors": [{"column", "detail"}]}.
    problems = models.JSONField(default=list, editable=False)
    namespace = models.UUIDField(default=uuid.uuid4, editable=False)
    # Those that it registered, in order; the first `handed_over` of them have been given their credentials.
    registered = ArrayField(models.UUIDField(), default=list, editable=False)
    handed_over = models.PositiveIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(_("begun"), auto_now_add=True)
    created_by_id = models.BigIntegerField(null=True, editable=False)
    created_by_label = models.CharField(_("begun by"), max_length=150)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    # Until when the process that is at it is taken for alive.
    claimed_until = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            # What the workers ask for every minute.
            models.Index(
                fields=["id"], name="device_import_under_way", condition=models.Q(state__in=["waiting", "running"])
            ),
        ]
        verbose_name = _("import of devices")
        verbose_name_plural = _("imports of devices")

    def __str__(self) -> str:
        return f"#{self.pk}"

    @property
    def is_under_way(self) -> bool:
        return self.state in (self.State.WAITING, self.State.RUNNING)

    @property
    def percent(self) -> int:
        """How much is done, rounded down: 100 means all."""
        if self.state == self.State.DONE:
            return 100
        return min(99, 100 * self.position // self.total) if self.total else 0

    @property
    def to_hand_over(self) -> int:
        """How many registered devices' credentials nobody was given yet."""
        return len(self.registered) - self.handed_over
