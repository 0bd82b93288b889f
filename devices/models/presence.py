"""Whether each device is there: the state, and the ledger that says how we know."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from .inventory import Device


class Status(models.TextChoices):
    UNKNOWN = "UNKNOWN", _("unknown")
    ONLINE = "ONLINE", _("online")
    OFFLINE = "OFFLINE", _("offline")
    TIMEOUT = "TIMEOUT", _("timed out")


class Cause(models.TextChoices):
    TELEMETRY = "telemetry", _("it sent live telemetry")
    BIRTH = "birth", _("it connected")
    WILL = "will", _("its connection was lost or closed")
    TIMEOUT = "timeout", _("no sign of life within its time limit")
    STAFF = "staff", _("set by a person")
    RECONCILE = "reconcile", _("corrected after a failure")


class DeviceStatus(models.Model):
    """A device's state, beside the row that people edit because it changes often."""

    Status = Status
    Cause = Cause

    device = models.OneToOneField(
        Device, on_delete=models.CASCADE, primary_key=True, related_name="presence", verbose_name=_("device")
    )
    status = models.CharField(_("status"), max_length=8, choices=Status.choices, default=Status.UNKNOWN)
    reason = models.CharField(_("reason"), max_length=10, choices=Cause.choices, blank=True)
    since = models.DateTimeField(_("since"), null=True)
    session = models.CharField(_("session"), max_length=64, blank=True)
    # As of the last transition; between transitions the newest sign of life is in Redis.
    last_seen_at = models.DateTimeField(_("last seen"), null=True)

    class Meta:
        verbose_name = _("device status")
        verbose_name_plural = _("device statuses")

    def __str__(self) -> str:
        return self.status


class StatusChange(models.Model):
    """One transition, with its evidence. Rows are only added."""

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

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            # A device's history, newest first.
            models.Index(fields=["device", "-id"], name="status_change_history"),
        ]
        verbose_name = _("status change")
        verbose_name_plural = _("status changes")

    def __str__(self) -> str:
        return f"{self.from_status} → {self.to_status}"
