"""What was refused by the tenant's limits."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import Device


class LimitHit(models.Model):
    """How many messages a limit refused on a day (UTC), of each device where the limit is the device's own."""

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
    times = models.BigIntegerField(_("refused"), default=0)

    class Meta:
        ordering: ClassVar = ["-day", "limit", "-times"]
        constraints: ClassVar = [
            # What the listener adds to.
            models.UniqueConstraint(fields=["day", "limit", "device"], name="limit_hit_once", nulls_distinct=False),
        ]
        verbose_name = _("refusals by a limit")
        verbose_name_plural = _("refusals by limits")

    def __str__(self) -> str:
        return f"{self.day} {self.limit}"
