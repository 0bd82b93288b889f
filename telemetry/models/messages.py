"""Messages as received, their series and readings, and the totals of a day.

Messages and readings are partitioned by month of their device time (see `telemetry.services.rollups.partitions`) and
are written with plain SQL by `telemetry.services.storage`; the models are for reading them.
"""

from typing import Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import Device, Metric


class Int8MultiRangeField(models.Field):
    """PostgreSQL's int8multirange; read and written in SQL only."""

    def db_type(self, connection: Any) -> str:
        return "int8multirange"


class Message(models.Model):
    """A message as it was received: the permanent record. A repeated message has one row."""

    pk = models.CompositePrimaryKey("device", "time", "fingerprint")
    # No database constraint: checking it would cost every message, and devices with messages are not deleted.
    device = models.ForeignKey(
        Device, on_delete=models.PROTECT, related_name="messages", db_constraint=False, db_index=False
    )
    time = models.DateTimeField(_("device time"))
    # The first 16 bytes of SHA-256 over topic, NUL and the signed bytes: equal messages have equal fingerprints.
    fingerprint = models.UUIDField()
    received_at = models.DateTimeField(_("received"))
    topic = models.TextField(_("topic"))
    payload = models.BinaryField(_("payload"))
    # 0: not verified here: a will, which cannot be signed in advance, or a message of a legacy import.
    signature = models.PositiveSmallIntegerField(_("signature version"))
    key_version = models.PositiveIntegerField(_("key"))
    late = models.BooleanField(_("late"))

    class Meta:
        ordering: ClassVar = ["-time"]
        verbose_name = _("message")
        verbose_name_plural = _("messages")

    def __str__(self) -> str:
        return self.topic

    @property
    def is_imported(self) -> bool:
        """Return whether the message is from a legacy import; its signature was not verified again."""
        return self.signature == 0 and not self.topic.startswith("device/lwt/")


class Series(models.Model):
    """One metric of one component in one unit, with the names and the unit at the time of measurement."""

    device = models.ForeignKey(Device, on_delete=models.PROTECT, related_name="series", verbose_name=_("device"))
    component = models.CharField(_("component"), max_length=63)
    metric = models.CharField(_("metric"), max_length=63)
    unit = models.CharField(_("unit"), max_length=24, blank=True)
    value_type = models.CharField(_("value type"), max_length=8, choices=Metric.ValueType.choices)

    class Meta:
        ordering: ClassVar = ["device", "component", "metric", "id"]
        constraints: ClassVar = [
            # Ingest resolves these five to the series; a new unit is a new series.
            models.UniqueConstraint(fields=["device", "component", "metric", "unit", "value_type"], name="series_once"),
        ]
        verbose_name = _("series")
        verbose_name_plural = _("series")

    def __str__(self) -> str:
        return f"{self.component}.{self.metric} [{self.unit}]"


class Reading(models.Model):
    """One value of a series at a time. Numbers and booleans (0 or 1) in `value`, text in `text`.

    Two different values of one instant are both stored, so (series, time) is not unique: the unique indexes
    include the value. Never save or delete single objects.
    """

    pk = models.CompositePrimaryKey("series", "time")
    series = models.ForeignKey(
        Series, on_delete=models.PROTECT, related_name="readings", db_constraint=False, db_index=False
    )
    time = models.DateTimeField(_("time"))
    value = models.FloatField(_("value"), null=True)
    text = models.TextField(_("text"), null=True)  # noqa: DJ001 (null: the value is not a text)

    class Meta:
        ordering: ClassVar = ["-time"]
        verbose_name = _("reading")
        verbose_name_plural = _("readings")

    def __str__(self) -> str:
        return f"{self.time}: {self.text if self.text is not None else self.value}"


class DeviceSequence(models.Model):
    """The sequence numbers seen in a boot of a device; they tell replayed and missing messages."""

    pk = models.CompositePrimaryKey("device", "boot")
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="sequences", db_index=False)
    boot = models.BigIntegerField()
    seen = Int8MultiRangeField()

    class Meta:
        verbose_name = _("device sequence")
        verbose_name_plural = _("device sequences")

    def __str__(self) -> str:
        return f"{self.device_id} boot {self.boot}"


class IngestTotals(models.Model):
    """The results of a day's messages: received = stored + duplicates + quarantined + rate limited.

    And of the values in the stored ones: values received = values stored + values quarantined.
    """

    day = models.DateField(_("day"), primary_key=True)
    received = models.BigIntegerField(_("received"), default=0)
    stored = models.BigIntegerField(_("stored"), default=0)
    duplicates = models.BigIntegerField(_("duplicates"), default=0)
    quarantined = models.BigIntegerField(_("quarantined"), default=0)
    rate_limited = models.BigIntegerField(_("rate limited"), default=0)
    values_received = models.BigIntegerField(_("values received"), default=0, db_default=0)
    values_stored = models.BigIntegerField(_("values stored"), default=0, db_default=0)
    values_quarantined = models.BigIntegerField(_("values quarantined"), default=0, db_default=0)
    # Stored messages of which values were left out, beyond the bounds of unmapped values.
    truncated = models.BigIntegerField(_("truncated"), default=0, db_default=0)
    # Messages that left the quarantine for a replay, and were then received again. The monotonic counters add it:
    # messages ever received are received + replayed; messages ever quarantined are quarantined + replayed.
    replayed = models.BigIntegerField(_("replayed"), default=0, db_default=0)

    class Meta:
        ordering: ClassVar = ["-day"]
        constraints: ClassVar = [
            # Conservation: each received message has exactly one result.
            models.CheckConstraint(
                condition=models.Q(
                    received=models.F("stored")
                    + models.F("duplicates")
                    + models.F("quarantined")
                    + models.F("rate_limited")
                ),
                name="nothing_is_lost",
            ),
            # The same for the values of stored messages.
            models.CheckConstraint(
                condition=models.Q(values_received=models.F("values_stored") + models.F("values_quarantined")),
                name="no_value_is_lost",
            ),
        ]
        verbose_name = _("ingest totals")
        verbose_name_plural = _("ingest totals")

    def __str__(self) -> str:
        return str(self.day)
