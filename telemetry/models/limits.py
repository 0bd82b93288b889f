"""Counts of the messages that the tenant's limits refused."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import Device


class LimitHit(models.Model):
    """The number of messages that a limit refused on a day (UTC); by device where the limit applies to a device."""

    day = models.DateField(_("day"))
    limit = models.CharField(_("limit"), max_length=32)
    # The counts outlive the device, so that the day's sum stays what it was.
    device = models.ForeignKey(
        Device,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="limit_hits",
        db_constraint=False,
        db_index=False,
        verbose_name=_("device"),
    )
    count = models.BigIntegerField(_("refused"), default=0, db_column="times")

    class Meta:
        ordering: ClassVar = ["-day", "limit", "-count"]
        constraints: ClassVar = [
            # The listener upserts on it.
            models.UniqueConstraint(fields=["day", "limit", "device"], name="limit_hit_once", nulls_distinct=False),
        ]
        verbose_name = _("limit refusal")
        verbose_name_plural = _("limit refusals")

    def __str__(self) -> str:
        return f"{self.day} {self.limit}"
