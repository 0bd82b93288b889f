"""What is beside the quarantine: floods that are counted instead of kept, and replays."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import Device
from tenants.infrastructure.resumable_jobs import UNDER_WAY, QueuedJob

from .received import Reason


class QuarantineFlood(models.Model):
    """Refused messages of a day (UTC) that are like those that are kept, and were counted instead.

    Their source is the device, or where there is none, what the topic names (segment/uuid). Without either it is
    all sources together that are no devices of the tenant.
    """

    day = models.DateField(_("day"))
    reason = models.CharField(_("reason"), max_length=30, choices=Reason.choices)
    # The counts outlive the device, so that the day's sum stays what it was.
    device = models.ForeignKey(
        Device,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="quarantine_floods",
        db_constraint=False,
        db_index=False,
        verbose_name=_("device"),
    )
    source = models.CharField(_("source"), max_length=120, blank=True)
    times = models.BigIntegerField(_("times"), default=0)
    detail = models.TextField(_("in words"), blank=True)
    last_received_at = models.DateTimeField(_("last received"))

    class Meta:
        ordering: ClassVar = ["-day", "-times"]
        constraints: ClassVar = [
            # What the listener adds to.
            models.UniqueConstraint(
                fields=["day", "reason", "device", "source"], name="quarantine_flood_once", nulls_distinct=False
            ),
        ]
        verbose_name = _("refused messages that were counted")
        verbose_name_plural = _("refused messages that were counted")

    def __str__(self) -> str:
        return f"{self.day} {self.reason}: {self.times}"


class Replay(QueuedJob):
    """Quarantined messages that the pipeline processes again, oldest first.

    The first columns select the messages, up to the newest one at the start (`until_id`). `position` is the id up to
    which they are settled; it moves in the transaction that settles them.
    """

    class State(models.TextChoices):
        WAITING = "waiting", _("waits for a worker")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        CANCELLED = "cancelled", _("cancelled")

    reason = models.CharField(_("reason"), max_length=30, choices=Reason.choices, blank=True)
    device = models.ForeignKey(
        Device,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("device"),
    )
    topic = models.TextField(_("part of the topic"), blank=True)
    start = models.DateTimeField(_("received from"), null=True, blank=True)
    stop = models.DateTimeField(_("received before"), null=True, blank=True)
    # Chosen rows; empty: all that the other columns select.
    chosen = models.JSONField(_("chosen"), default=list, blank=True)

    state = models.CharField(_("state"), max_length=9, choices=State.choices, default=State.WAITING)
    note = models.TextField(_("in words"), blank=True)
    until_id = models.BigIntegerField(default=0, editable=False)
    total = models.BigIntegerField(_("messages"), default=0)
    stored = models.BigIntegerField(_("stored"), default=0)
    duplicates = models.BigIntegerField(_("duplicates"), default=0)
    # Reason → number.
    refused = models.JSONField(_("refused again"), default=dict)

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            # For the workers' query of every minute.
            models.Index(fields=["id"], name="replay_under_way", condition=models.Q(state__in=list(UNDER_WAY))),
        ]
        verbose_name = _("replay")
        verbose_name_plural = _("replays")

    def __str__(self) -> str:
        return f"#{self.pk}"

    @property
    def refused_total(self) -> int:
        """Number of messages that were refused again."""
        return sum(self.refused.values())

    @property
    def settled(self) -> int:
        """Number of messages that this replay has settled."""
        return self.stored + self.duplicates + self.refused_total

    @property
    def gone(self) -> int:
        """Number of messages that left the quarantine before their turn, known at the end."""
        return max(0, self.total - self.settled) if self.state == self.State.DONE else 0
