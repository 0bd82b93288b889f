"""The messages as received, the readings in them, and what was refused.

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
    """A message as it was received: the permanent record. One row however often it came."""

    pk = models.CompositePrimaryKey("device", "time", "fingerprint")
    # No database constraint: checking it would cost every message, and devices with messages are not deleted.
    device = models.ForeignKey(
        Device, on_delete=models.PROTECT, related_name="messages", db_constraint=False, db_index=False
    )
    time = models.DateTimeField(_("device time"))
    # The first 16 bytes of SHA-256 over topic, NUL and what was signed: the same message has the same one.
    fingerprint = models.UUIDField()
    received_at = models.DateTimeField(_("received"))
    topic = models.TextField(_("topic"))
    payload = models.BinaryField(_("payload"))
    # 0: not verified here: a will, which cannot be signed in advance, or what an old server had recorded.
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
        """Whether it is from an old server's record: its signature was not verified again."""
        return self.signature == 0 and not self.topic.startswith("device/lwt/")


class Series(models.Model):
    """One metric of one component in one unit. The names and the unit are those of when it was measured."""

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

    Two different values of one instant are both kept, so (series, time) is no key of the table: the unique
    indexes are over the value as well. Never save or delete single objects.
    """

    pk = models.CompositePrimaryKey("series", "time")
    series = models.ForeignKey(
        Series, on_delete=models.PROTECT, related_name="readings", db_constraint=False, db_index=False
    )
    time = models.DateTimeField(_("time"))
    value = models.FloatField(_("value"), null=True)
    text = models.TextField(_("text"), null=True)  # noqa: DJ001 (null says that the value is not a text)

    class Meta:
        ordering: ClassVar = ["-time"]
        verbose_name = _("reading")
        verbose_name_plural = _("readings")

    def __str__(self) -> str:
        return f"{self.time}: {self.text if self.text is not None else self.value}"


class DeviceSequence(models.Model):
    """Which message counters of a device's boot were seen: what is replayed, and what is missing."""

    pk = models.CompositePrimaryKey("device", "boot")
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="sequences", db_index=False)
    boot = models.BigIntegerField()
    seen = Int8MultiRangeField()

    class Meta:
        verbose_name = _("device sequence")
        verbose_name_plural = _("device sequences")

    def __str__(self) -> str:
        return f"{self.device_id} boot {self.boot}"


class Reason(models.TextChoices):
    """Why a message is quarantined."""

    MALFORMED = "malformed", _("malformed")
    TOO_LARGE = "too_large", _("too large")
    KEY_UNAVAILABLE = "key_unavailable", _("key unavailable (parked)")
    UNKNOWN_DEVICE = "unknown_device", _("unknown device")
    INACTIVE_DEVICE = "inactive_device", _("inactive device")
    WRONG_TENANT = "wrong_tenant", _("wrong tenant")
    BAD_SIGNATURE = "bad_signature", _("bad signature")
    DOWNGRADED_SIGNATURE = "downgraded_signature", _("downgraded signature")
    FUTURE_TIMESTAMP = "future_timestamp", _("timestamp in the future")
    REPLAYED = "replayed", _("replayed")
    CPU_SERIAL_MISMATCH = "cpu_serial_mismatch", _("CPU serial mismatch")
    HARDWARE_VERSION_MISMATCH = "hardware_version_mismatch", _("hardware version mismatch")
    UNKNOWN_COMPONENT = "unknown_component", _("unknown component")
    COMPONENT_NOT_ATTACHED = "component_not_attached", _("component not attached")
    COMPONENT_NOT_ALLOWED = "component_not_allowed", _("component not allowed")
    WRONG_TYPE = "wrong_type", _("wrong type")
    OUT_OF_RANGE = "out_of_range", _("out of range")
    UNIT_MISMATCH = "unit_mismatch", _("unit mismatch")
    QUOTA_EXCEEDED = "quota_exceeded", _("quota exceeded")


class Quarantined(models.Model):
    """A message that was refused, as it was sent, with the reason. The same one again is counted."""

    Reason = Reason

    # Over reason, topic and payload.
    fingerprint = models.UUIDField(_("fingerprint"), unique=True, editable=False)
    reason = models.CharField(_("reason"), max_length=30, choices=Reason.choices)
    detail = models.TextField(_("in words"))
    topic = models.TextField(_("topic"))
    payload = models.BinaryField(_("payload"))
    device = models.ForeignKey(
        Device,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="quarantined",
        verbose_name=_("device"),
    )
    first_received_at = models.DateTimeField(_("first received"))
    last_received_at = models.DateTimeField(_("last received"))
    times = models.BigIntegerField(_("times"), default=1)

    class Meta:
        ordering: ClassVar = ["-last_received_at", "-id"]
        indexes: ClassVar = [
            # The list, newest first, and the same filtered by reason.
            models.Index(fields=["-last_received_at", "-id"], name="quarantine_newest"),
            models.Index(fields=["reason", "-last_received_at", "-id"], name="quarantine_by_reason"),
        ]
        verbose_name = _("quarantined message")
        verbose_name_plural = _("quarantine")

    def __str__(self) -> str:
        return f"{self.get_reason_display()}: {self.topic[:80]}"


class IngestTotals(models.Model):
    """What became of the messages of a day: received = stored + duplicates + quarantined + rate limited."""

    day = models.DateField(_("day"), primary_key=True)
    received = models.BigIntegerField(_("received"), default=0)
    stored = models.BigIntegerField(_("stored"), default=0)
    duplicates = models.BigIntegerField(_("duplicates"), default=0)
    quarantined = models.BigIntegerField(_("quarantined"), default=0)
    rate_limited = models.BigIntegerField(_("rate limited"), default=0)
    # Those that left the quarantine to be judged again, and were received anew then. Counters that only grow are
    # made with it: what was ever received is received + replayed, what was ever quarantined likewise.
    replayed = models.BigIntegerField(_("replayed"), default=0, db_default=0)

    class Meta:
        ordering: ClassVar = ["-day"]
        constraints: ClassVar = [
            # The law of conservation: nothing is received without becoming something.
            models.CheckConstraint(
                condition=models.Q(
                    received=models.F("stored")
                    + models.F("duplicates")
                    + models.F("quarantined")
                    + models.F("rate_limited")
                ),
                name="nothing_is_lost",
            ),
        ]
        verbose_name = _("ingest totals")
        verbose_name_plural = _("ingest totals")

    def __str__(self) -> str:
        return str(self.day)
