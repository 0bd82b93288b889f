"""Quarantined and suppressed messages, with the reasons, and replays of the quarantine."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import Device
from tenants.infrastructure.resumable_jobs import UNDER_WAY, QueuedJob


class Reason(models.TextChoices):
    """Reasons for quarantine."""

    MALFORMED = "malformed", _("malformed")
    TOO_LARGE = "too_large", _("too large")
    KEY_UNAVAILABLE = "key_unavailable", _("key unavailable (deferred)")
    UNKNOWN_DEVICE = "unknown_device", _("unknown device")
    UNKNOWN_CHILD = "unknown_child", _("unknown child of a gateway")
    INACTIVE_DEVICE = "inactive_device", _("inactive device")
    WRONG_TENANT = "wrong_tenant", _("wrong tenant")
    BAD_SIGNATURE = "bad_signature", _("bad signature")
    DOWNGRADED_SIGNATURE = "downgraded_signature", _("downgraded signature")
    FUTURE_TIMESTAMP = "future_timestamp", _("timestamp in the future")
    NOT_A_WILL = "not_a_will", _("not a will")
    PAST_TIMESTAMP = "past_timestamp", _("timestamp too long ago")
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


# Reasons that are treated differently from the others.
# They wait for their key: the platform replays them, and retention never deletes them.
DEFERRED = frozenset({Reason.KEY_UNAVAILABLE.value})
# They are validated again later: each message is stored, however many there are.
ALWAYS_STORED = DEFERRED | {Reason.QUOTA_EXCEEDED.value}
# A quarantine that is too large loses them after all others.
DELETED_LAST = frozenset({Reason.QUOTA_EXCEEDED.value})
# A signature that was wrong stays wrong.
NEVER_REPLAYED = frozenset({Reason.BAD_SIGNATURE.value})


class Quarantined(models.Model):
    """A refused message as it was sent, with the reason. A repetition increments `count`.

    With `metric`, only this metric's value is refused: the message itself is stored, with its other values.
    """

    Reason = Reason

    # Over reason, topic and payload, and the metric if there is one.
    fingerprint = models.UUIDField(_("fingerprint"), unique=True, editable=False)
    reason = models.CharField(_("reason"), max_length=30, choices=Reason.choices)
    detail = models.TextField(_("detail"))
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
    metric = models.CharField(_("metric"), max_length=63, blank=True, default="", db_default="")
    first_received_at = models.DateTimeField(_("first received"))
    last_received_at = models.DateTimeField(_("last received"))
    count = models.BigIntegerField(_("count"), default=1, db_column="times")

    class Meta:
        ordering: ClassVar = ["-last_received_at", "-id"]
        indexes: ClassVar = [
            # The list, newest first, and the list of one reason.
            models.Index(fields=["-last_received_at", "-id"], name="quarantine_newest"),
            models.Index(fields=["reason", "-last_received_at", "-id"], name="quarantine_by_reason"),
        ]
        verbose_name = _("quarantined message")
        verbose_name_plural = _("quarantine")

    def __str__(self) -> str:
        return f"{self.get_reason_display()}: {self.topic[:80]}"


class SuppressedMessages(models.Model):
    """The number of refused messages of a day (UTC) that were counted and not stored, by reason and source.

    The source is the device or, for unknown devices, the second and third level of the topic (segment/uuid). A row
    with neither counts all unknown sources together. Values of a device's stored messages have the source `values`.
    """

    day = models.DateField(_("day"))
    reason = models.CharField(_("reason"), max_length=30, choices=Reason.choices)
    # The counts outlive the device, so that the day's sum stays what it was.
    device = models.ForeignKey(
        Device,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="suppressed_messages",
        db_constraint=False,
        db_index=False,
        verbose_name=_("device"),
    )
    source = models.CharField(_("source"), max_length=120, blank=True)
    count = models.BigIntegerField(_("count"), default=0, db_column="times")
    detail = models.TextField(_("detail"), blank=True)
    last_received_at = models.DateTimeField(_("last received"))

    class Meta:
        db_table = "telemetry_quarantineflood"
        ordering: ClassVar = ["-day", "-count"]
        constraints: ClassVar = [
            # The listener upserts on it.
            models.UniqueConstraint(
                fields=["day", "reason", "device", "source"], name="quarantine_flood_once", nulls_distinct=False
            ),
        ]
        verbose_name = _("suppressed messages")
        verbose_name_plural = _("suppressed messages")

    def __str__(self) -> str:
        return f"{self.day} {self.reason}: {self.count}"


class Replay(QueuedJob):
    """Quarantined messages that the pipeline processes again, oldest first.

    The first columns select the messages, up to the newest one at the start (`until_id`). `position` is the id up to
    which they are settled; it moves in the transaction that settles them.
    """

    class State(models.TextChoices):
        WAITING = "waiting", _("waiting for a worker")
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
    topic = models.TextField(_("topic contains"), blank=True)
    start = models.DateTimeField(_("received at or after"), null=True, blank=True)
    stop = models.DateTimeField(_("received before"), null=True, blank=True)
    # Ids of the selected rows; empty: all rows that match the other columns.
    chosen = models.JSONField(_("selected"), default=list, blank=True)

    state = models.CharField(_("state"), max_length=9, choices=State.choices, default=State.WAITING)
    note = models.TextField(_("note"), blank=True)
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
