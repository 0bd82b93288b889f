"""Messages that no tenant's schema holds: those of no tenant, and those that wait for a locked tenant."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class UnroutedMessage(models.Model):
    """A message that belongs to no tenant, kept for staff with the reason. The same one again is counted."""

    fingerprint = models.UUIDField(_("fingerprint"), unique=True, editable=False)
    reason = models.CharField(_("reason"), max_length=40)
    detail = models.TextField(_("in words"))
    topic = models.TextField(_("topic"))
    payload = models.BinaryField(_("payload"))
    first_received_at = models.DateTimeField(_("first received"))
    last_received_at = models.DateTimeField(_("last received"), db_index=True)  # the console's list order
    times = models.BigIntegerField(_("times"), default=1)

    class Meta:
        ordering: ClassVar = ["-last_received_at"]
        verbose_name = _("message of no tenant")
        verbose_name_plural = _("messages of no tenant")

    def __str__(self) -> str:
        return f"{self.reason}: {self.topic[:80]}"


class WaitingMessage(models.Model):
    """A message that the listener has put aside, because its tenant's tables are locked. It is stored when they are
    free, in the order of the ids. Only listeners read it; staff are told how many there are."""

    schema_name = models.CharField(_("tenant's schema"), max_length=63)
    topic = models.TextField(_("topic"))
    payload = models.BinaryField(_("payload"))
    received_at = models.DateTimeField(_("received"))

    class Meta:
        ordering: ClassVar = ["id"]
        indexes: ClassVar = [models.Index(fields=["schema_name", "id"], name="waiting_message_order")]
        verbose_name = _("message that waits for its tenant")
        verbose_name_plural = _("messages that wait for their tenant")

    def __str__(self) -> str:
        return f"{self.schema_name}: {self.topic[:80]}"


class UnroutedFlood(models.Model):
    """Messages of no tenant of a day (UTC) that are like those that are kept, and were counted instead.

    `source` is what the topic names (segment/uuid), or empty for all of them together.
    """

    day = models.DateField(_("day"))
    reason = models.CharField(_("reason"), max_length=40)
    source = models.CharField(_("source"), max_length=120, blank=True)
    times = models.BigIntegerField(_("times"), default=0)
    detail = models.TextField(_("in words"), blank=True)
    last_received_at = models.DateTimeField(_("last received"))

    class Meta:
        ordering: ClassVar = ["-day", "-times"]
        constraints: ClassVar = [
            # What the listener adds to.
            models.UniqueConstraint(fields=["day", "reason", "source"], name="unrouted_flood_once"),
        ]
        verbose_name = _("messages of no tenant that were counted")
        verbose_name_plural = _("messages of no tenant that were counted")

    def __str__(self) -> str:
        return f"{self.day} {self.reason}: {self.times}"
