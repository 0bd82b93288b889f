"""Data derived from readings in the background: rollups, newest values, packed days.

`telemetry.services.rollups` writes it with plain SQL; the models are for reading.
No model has a database constraint to a series: PostgreSQL would check it for every row.
"""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.translation import gettext_lazy as _


class RollupState(models.Model):
    """The progress of the background work: one row. Workers also lock it: it is the work lock.

    `marked_until`: ingest marks readings of hours before it as late. `rolled_until`: hours before it are in the
    rollups. `packed_until`: days before it are packed. `readings_from`: retention has dropped older readings.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    marked_until = models.DateTimeField(null=True)
    rolled_until = models.DateTimeField(null=True)
    packed_until = models.DateTimeField(null=True)
    readings_from = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="one_row_of_rollup_state"),
            # Hours are rolled up only below `marked_until`; days are packed only below `rolled_until`.
            models.CheckConstraint(
                condition=models.Q(rolled_until__lte=models.F("marked_until")), name="rolled_up_is_marked"
            ),
            models.CheckConstraint(
                condition=models.Q(packed_until__lte=models.F("rolled_until")), name="packed_is_rolled_up"
            ),
        ]

    def __str__(self) -> str:
        return f"rolled up until {self.rolled_until}"


class RollupBase(models.Model):
    """Aggregates of the numbers and booleans of a series in one interval; intervals without readings have no row."""

    count = models.BigIntegerField()
    min = models.FloatField()
    max = models.FloatField()
    # Null: out of the range of a float.
    sum = models.FloatField(null=True)
    # The greater of two values of one instant.
    last = models.FloatField()
    last_at = models.DateTimeField()

    class Meta:
        abstract = True


class ReadingHour(RollupBase):
    """The rollup of a series in one hour, partitioned by month. Valid for hours before `rolled_until` whose
    (device, hour) is not in `LateHour`.
    """

    pk = models.CompositePrimaryKey("series_id", "hour")
    series_id = models.BigIntegerField()
    hour = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.series_id} {self.hour}"


class ReadingDay(RollupBase):
    """The rollup of a series in one day of UTC, computed from its 24 hours when all are rolled up."""

    pk = models.CompositePrimaryKey("series_id", "day")
    series_id = models.BigIntegerField()
    day = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.series_id} {self.day}"


class LateHour(models.Model):
    """An hour that received readings of the device after its rollup: it must be rolled up again."""

    pk = models.CompositePrimaryKey("device_id", "hour")
    device_id = models.BigIntegerField()
    hour = models.DateTimeField()
    # The last transaction that marked it: a worker does not remove a mark that was renewed meanwhile.
    mark = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.device_id} {self.hour}"


class RepackDay(models.Model):
    """A day of a device that must be packed, or packed again because late readings arrived."""

    pk = models.CompositePrimaryKey("device_id", "day")
    device_id = models.BigIntegerField()
    day = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.device_id} {self.day}"


class Latest(models.Model):
    """The newest reading of each series at the last move from Redis; it only advances.

    `telemetry.services.latest.values` adds the newer values.
    """

    series_id = models.BigIntegerField(primary_key=True)
    time = models.DateTimeField(_("time"))
    value = models.FloatField(null=True)
    text = models.TextField(null=True)  # noqa: DJ001 (null: the value is not a text)

    def __str__(self) -> str:
        return f"{self.series_id} {self.time}"


class PackedDay(models.Model):
    """The numbers and booleans of a series in one day of UTC, in order of (time, value)."""

    pk = models.CompositePrimaryKey("series_id", "day")
    series_id = models.BigIntegerField()
    day = models.DateTimeField()
    count = models.IntegerField()
    offsets = ArrayField(models.IntegerField())  # milliseconds since the beginning of the day
    micros = ArrayField(models.SmallIntegerField(), null=True)  # and the microseconds below; null: all 0
    numbers = ArrayField(models.FloatField())

    def __str__(self) -> str:
        return f"{self.series_id} {self.day}"
