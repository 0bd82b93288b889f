"""Presence of devices: their state, the status changes with their evidence, and maintenance windows."""

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from tenants.models.base import CountedModel

from .base import SpecInput
from .inventory import Device


class Status(models.TextChoices):
    UNKNOWN = "UNKNOWN", _("unknown")
    ONLINE = "ONLINE", _("online")
    OFFLINE = "OFFLINE", _("offline")
    TIMEOUT = "TIMEOUT", _("timed out")


class Cause(models.TextChoices):
    TELEMETRY = "telemetry", _("live telemetry received")
    BIRTH = "birth", _("connected")
    WILL = "will", _("connection lost or closed")
    TIMEOUT = "timeout", _("no message within the timeout")
    GATEWAY = "gateway", _("its gateway is gone")
    STAFF = "staff", _("set by a user")
    RECONCILE = "reconcile", _("corrected after a failure")


class SuppressedBy(models.TextChoices):
    """Why a status change was not published to apps."""

    MAINTENANCE = "maintenance", _("in a maintenance window")
    FLAPPING = "flapping", _("flapping")
    INACTIVE = "inactive", _("deactivated")


class DeviceStatus(models.Model):
    """A device's state, apart from the edited row because it changes often.

    Written by `devices.services.presence.activity` only, under a lock of the row, by the rules of
    `devices.services.presence.state_machine`.
    """

    Status = Status
    Cause = Cause

    device = models.OneToOneField(
        Device, on_delete=models.CASCADE, primary_key=True, related_name="presence", verbose_name=_("device")
    )
    status = models.CharField(_("status"), max_length=8, choices=Status.choices, default=Status.UNKNOWN)
    cause = models.CharField(_("cause"), max_length=10, choices=Cause.choices, blank=True, db_column="reason")
    since = models.DateTimeField(_("since"), null=True)
    session = models.CharField(_("session"), max_length=64, blank=True)
    # The device's time of the session's begin: a late birth of an older session does not restore that session. Null
    # where the device's clock was wrong; the arrival of the birth is compared then.
    session_at = models.DateTimeField(null=True)
    session_received_at = models.DateTimeField(null=True, editable=False)
    # As of the last transition or birth; between them the last activity is in Redis.
    last_seen_at = models.DateTimeField(_("last seen"), null=True)
    # The newest will that counts for the session.
    will_at = models.DateTimeField(null=True)
    # [session, time] of wills of other sessions: a will that precedes its birth counts after the birth.
    other_wills = models.JSONField(default=list)
    # When the state of the device's gateway last ended, and when the gateway was last back.
    gateway_gone_at = models.DateTimeField(null=True)
    gateway_back_at = models.DateTimeField(null=True)
    flapping_until = models.DateTimeField(_("flapping until"), null=True)
    # Why apps have not received the present state, or received it as flapping: it is published when that is over.
    # Written by `devices.services.notifications.outbox`.
    pending_update = models.CharField(
        max_length=12,
        choices=SuppressedBy.choices,
        blank=True,
        default="",
        db_default="",
        editable=False,
        db_column="untold",
    )

    class Meta:
        indexes: ClassVar = [
            # The devices whose state may have to be published.
            models.Index(fields=["device"], name="device_status_untold", condition=~Q(pending_update="")),
        ]
        verbose_name = _("device status")
        verbose_name_plural = _("device statuses")

    def __str__(self) -> str:
        return self.status


class DeviceContact(models.Model):
    """The newest verified message of a device that does not count as activity: refused, or late.

    It shows that the device sends.
    Written by ingest with the batch, in plain SQL.
    """

    LATE = "late"

    # No database constraint: a device that is removed meanwhile must not make the batch fail.
    device = models.OneToOneField(
        Device,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="contact",
        verbose_name=_("device"),
        db_constraint=False,
    )
    received_at = models.DateTimeField(_("received"))
    # By the device's clock; null where the message has no readable time.
    device_time = models.DateTimeField(_("device time"), null=True)
    reason = models.CharField(_("reason"), max_length=30)
    detail = models.TextField(_("detail"), blank=True)
    topic = models.TextField(_("topic"))

    class Meta:
        verbose_name = _("contact of a device")
        verbose_name_plural = _("contacts of devices")

    def __str__(self) -> str:
        return f"{self.device_id}: {self.reason}"


class DeviceOmissions(models.Model):
    """The components of a device of whose messages ingest leaves out values, beyond the bounds of unmapped values.

    Written by ingest with the batch, in plain SQL.
    """

    # As of contacts, without a database constraint.
    device = models.OneToOneField(
        Device,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="omissions",
        verbose_name=_("device"),
        db_constraint=False,
    )
    # Component → {"code": …, "at": …} of its newest message with omitted values.
    components = models.JSONField(_("components"), default=dict)

    class Meta:
        verbose_name = _("omitted values of a device")
        verbose_name_plural = _("omitted values of devices")

    def __str__(self) -> str:
        return f"{self.device_id}: {', '.join(self.components)}"


class StatusChange(models.Model):
    """A transition with its evidence, and the outbox of notifications. Rows are only added."""

    id = models.BigAutoField(primary_key=True)
    device = models.ForeignKey(
        Device, on_delete=models.CASCADE, related_name="status_changes", verbose_name=_("device")
    )
    from_status = models.CharField(_("from"), max_length=8, choices=Status.choices)
    to_status = models.CharField(_("to"), max_length=8, choices=Status.choices)
    cause = models.CharField(_("cause"), max_length=10, choices=Cause.choices)
    session = models.CharField(_("session"), max_length=64, blank=True)
    evidence_at = models.DateTimeField(_("evidence from"))
    at = models.DateTimeField(_("recorded"))
    # Assigned when it is published, in the order of publication; event streams resume by it. Null: in the outbox.
    position = models.BigIntegerField(null=True, editable=False)
    suppressed_by = models.CharField(
        _("not published because"), max_length=12, choices=SuppressedBy.choices, blank=True, db_column="quiet"
    )

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            # A device's history, newest first.
            models.Index(fields=["device", "-id"], name="status_change_history"),
            # A period of its history: timelines and availability.
            models.Index(fields=["device", "at"], name="status_change_stretch"),
            # The outbox: changes to publish.
            models.Index(fields=["id"], name="status_change_outbox", condition=Q(position__isnull=True)),
        ]
        constraints: ClassVar = [
            # Event streams resume after a position.
            models.UniqueConstraint(fields=["position"], name="status_change_position_once"),
            models.CheckConstraint(condition=~Q(from_status=F("to_status")), name="status_change_changes"),
        ]
        verbose_name = _("status change")
        verbose_name_plural = _("status changes")

    def __str__(self) -> str:
        return f"{self.from_status} → {self.to_status}"


class StatusFeed(models.Model):
    """The last assigned position of a change, in one row. No position is assigned twice, even if rows are removed."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    position = models.BigIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(id=1), name="one_row_of_status_feed"),
        ]

    def __str__(self) -> str:
        return str(self.position)


class IgnoredWill(models.Model):
    """A will that did not change the state, with the reason."""

    id = models.BigAutoField(primary_key=True)
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="ignored_wills", verbose_name=_("device"))
    session = models.CharField(_("session"), max_length=64, blank=True)
    reason = models.CharField(_("reason"), max_length=20, db_column="why")
    evidence_at = models.DateTimeField(_("evidence from"))
    at = models.DateTimeField(_("recorded"), auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        db_table = "devices_ignoredsign"
        verbose_name = _("ignored will")
        verbose_name_plural = _("ignored wills")

    def __str__(self) -> str:
        return self.reason


class MaintenanceWindow(CountedModel):
    """A period in which the device's status changes are recorded but not published."""

    quota = "max_maintenance_windows"

    device = models.ForeignKey(
        Device, on_delete=models.CASCADE, related_name="maintenance_windows", verbose_name=_("device")
    )
    starts_at = models.DateTimeField(_("starts at"))
    ends_at = models.DateTimeField(_("ends at"))
    reason = models.CharField(_("description"), max_length=200, blank=True)

    class Meta:
        ordering: ClassVar = ["-starts_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(starts_at__lt=F("ends_at")), name="maintenance_ends_after_it_starts"),
        ]
        verbose_name = _("maintenance window")
        verbose_name_plural = _("maintenance windows")

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d %H:%M} – {self.ends_at:%Y-%m-%d %H:%M}"

    def clean(self) -> None:
        """Validate the fields together; raises ValidationError."""
        if self.starts_at and self.ends_at and self.starts_at >= self.ends_at:
            raise ValidationError({"ends_at": _("The end must be later than the start.")})


class PresenceSettings(SpecInput):
    """A tenant's presence settings: one row, created when the defaults are changed."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    timeout_seconds = models.PositiveIntegerField(
        _("timeout in seconds"),
        default=60,
        validators=[MinValueValidator(1)],
        help_text=_("The shortest timeout of a device that has none of its own and none of its hardware model."),
    )
    flapping_changes = models.PositiveIntegerField(
        _("status changes for flapping"),
        default=6,
        validators=[MinValueValidator(2)],
        help_text=_("The device is flapping after this many status changes within the window below."),
    )
    flapping_window_seconds = models.PositiveIntegerField(
        _("flapping window in seconds"), default=600, validators=[MinValueValidator(1)]
    )

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(id=1), name="one_row_of_presence_settings"),
        ]
        verbose_name = _("presence settings")
        verbose_name_plural = _("presence settings")

    def __str__(self) -> str:
        return capfirst(str(self._meta.verbose_name))

    @classmethod
    def current(cls) -> "PresenceSettings":
        """Return the tenant's settings, or the defaults."""
        return cls.objects.first() or cls()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the single row of the tenant."""
        self.id = 1
        super().save(*args, **kwargs)
