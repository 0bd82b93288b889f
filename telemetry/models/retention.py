"""Retention settings of a tenant."""

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

_KEEP = _("Number of whole months to keep besides the current one; older data is deleted permanently. Empty: no limit.")


class RetentionSettings(models.Model):
    """A tenant's retention: one row. Empty fields keep the data without limit."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    messages_months = models.PositiveSmallIntegerField(
        _("months of messages"), null=True, blank=True, validators=[MinValueValidator(1)], help_text=_KEEP
    )
    readings_months = models.PositiveSmallIntegerField(
        _("months of readings"), null=True, blank=True, validators=[MinValueValidator(1)], help_text=_KEEP
    )
    rollups_months = models.PositiveSmallIntegerField(
        _("months of hourly and daily values"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_KEEP,
    )

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(id=1), name="one_row_of_retention_settings"),
            models.CheckConstraint(
                condition=Q(messages_months__gte=1) & Q(readings_months__gte=1) & Q(rollups_months__gte=1),
                name="retention_keeps_a_month",
            ),
            # Hours that are rolled up are read from the rollups, so rollups must be kept as long as the readings.
            models.CheckConstraint(
                condition=Q(rollups_months__isnull=True)
                | Q(readings_months__isnull=False, rollups_months__gte=F("readings_months")),
                name="rollups_outlive_readings",
            ),
        ]
        verbose_name = _("retention")
        verbose_name_plural = _("retention")

    def __str__(self) -> str:
        return capfirst(str(self._meta.verbose_name))

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the single row of the tenant."""
        self.id = 1
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """Validate the fields together; raises ValidationError."""
        if self.rollups_months is None:
            return
        if self.readings_months is None or self.rollups_months < self.readings_months:
            raise ValidationError(
                {"rollups_months": _("Hourly and daily values must be kept at least as long as the readings.")}
            )

    @classmethod
    def current(cls) -> "RetentionSettings":
        """Return the tenant's retention; without a saved row, settings that keep everything."""
        return cls.objects.first() or cls()
