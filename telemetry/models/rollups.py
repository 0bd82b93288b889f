"""What is worked out from readings, out of band: rollups, newest values, packed days.

All of it is written with plain SQL, in `telemetry.services.rollups`; the models are for reading.
Nothing here has a database constraint to a series: it would be checked for every row.
"""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.translation import gettext_lazy as _


class RollupState(models.Model):
    """How far the background work has come: one row. It is also the lock that this work is done under.

    `marked_until`: ingest marks readings of hours before it as late. `rolled_until`: hours before it are in the
    rollups. `packed_until`: days before it are packed. `readings_from`: older readings were dropped by retention.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    marked_until = models.DateTimeField(null=True)
    rolled_until = models.DateTimeField(null=True)
    packed_until = models.DateTimeField(null=True)
    readings_from = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="one_row_of_rollup_state"),
            # Only what is marked when it changes may be rolled up; only what is rolled up may be packed.
            models.CheckConstraint(
                condition=models.Q(rolled_until__lte=models.F("marked_until")), name="rolled_up_is_marked"
            ),
            models.CheckConstraint(
                condition=models.Q(packed_until__lte=models.F("rolled_until")), name="packed_is_rolled_up"
            ),
        ]

    def __str__(self) -> str:
        return f"rolled up until {self.rolled_until}"


class Rollup(models.Model):
    """The numbers and booleans of a series in one stretch of time; stretches without readings have no row."""

    count = models.BigIntegerField()
    min = models.FloatField()
    max = models.FloatField()
    # Null: too large to be said.
    sum = models.FloatField(null=True)
    # The greater of two values of one instant.
    last = models.FloatField()
    last_at = models.DateTimeField()

    class Meta:
        abstract = True


class ReadingHour(Rollup):
    """The readings of a series in one hour, partitioned by month. Right for hours before `rolled_until` whose
    (device, hour) is not in `LateHour`.
    """

    pk = models.CompositePrimaryKey("series_id", "hour")
    series_id = models.BigIntegerField()
    hour = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.series_id} {self.hour}"


class ReadingDay(Rollup):
    """The readings of a series in one day of UTC, made from its hours once all 24 are rolled up."""

    pk = models.CompositePrimaryKey("series_id", "day")
    series_id = models.BigIntegerField()
    day = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.series_id} {self.day}"


class LateHour(models.Model):
    """Readings of the device came for this hour after it was rolled up: it is to be done again."""

    pk = models.CompositePrimaryKey("device_id", "hour")
    device_id = models.BigIntegerField()
    hour = models.DateTimeField()
    # The transaction that marked it last: a mark that was renewed meanwhile is not removed.
    mark = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.device_id} {self.hour}"


class RepackDay(models.Model):
    """Readings of the device came for this day after it was packed: they are to be packed with the others."""

    pk = models.CompositePrimaryKey("device_id", "day")
    device_id = models.BigIntegerField()
    day = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.device_id} {self.day}"


class Latest(models.Model):
    """The newest reading of each series, as far as it was moved here; moved forward only.

    `telemetry.services.latest.values` knows what came since.
    """

    series_id = models.BigIntegerField(primary_key=True)
    time = models.DateTimeField(_("time"))
    value = models.FloatField(null=True)
    text = models.TextField(null=True)  # noqa: DJ001 (null says that the value is not a text)

    def __str__(self) -> str:
        return f"{self.series_id} {self.time}"


class PackedDay(models.Model):
    """The numbers and booleans of a series in one day of UTC, in order of (time, value)."""

    pk = models.CompositePrimaryKey("series_id", "day")
    series_id = models.BigIntegerField()
    day = models.DateTimeField()
    count = models.IntegerField()
    offsets = ArrayField(models.IntegerField())  # milliseconds since the day began
    micros = ArrayField(models.SmallIntegerField(), null=True)  # and microseconds beside them; null: all 0
    numbers = ArrayField(models.FloatField())

    def __str__(self) -> str:
        return f"{self.series_id} {self.day}"
