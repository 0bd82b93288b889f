"""Rotation campaigns: the devices that get a new key, and the progress of each."""

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from .inventory import Device, DeviceCredential


class RotationCampaign(models.Model):
    """New keys for many devices; the old ones stay valid until the last device is confirmed, or until the deadline."""

    class State(models.TextChoices):
        RUNNING = "running", _("running")
        ENDING = "ending", _("old keys expiring")
        ENDED = "ended", _("ended")
        ROLLING_BACK = "returning", _("rolling back")
        ROLLED_BACK = "returned", _("rolled back")

    class AtDeadline(models.TextChoices):
        END = "end", _("expire the old keys")
        EXTEND = "extend", _("extend the deadline")

    name = models.CharField(_("name"), max_length=120)
    state = models.CharField(_("state"), max_length=9, choices=State.choices, default=State.RUNNING)
    deadline = models.DateTimeField(_("deadline"))
    at_deadline = models.CharField(
        _("at the deadline"),
        max_length=6,
        choices=AtDeadline.choices,
        default=AtDeadline.END,
        help_text=_("Action for the old keys of devices that do not sign with their new keys yet."),
    )
    extend_days = models.PositiveSmallIntegerField(
        _("days of extension"), default=7, validators=[MinValueValidator(1), MaxValueValidator(90)]
    )
    extended = models.PositiveSmallIntegerField(_("extensions"), default=0)
    created_at = models.DateTimeField(_("started"), auto_now_add=True)
    created_by_label = models.CharField(_("started by"), max_length=150)
    # When the old keys expire, or when the rollback started.
    cutover_at = models.DateTimeField(_("old keys expiring"), null=True, blank=True, db_column="turned_at")

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            # What the workers query every minute.
            models.Index(
                fields=["id"],
                name="rotation_under_way",
                condition=models.Q(state__in=["running", "ending", "returning"]),
            ),
        ]
        verbose_name = _("key rotation")
        verbose_name_plural = _("key rotations")

    def __str__(self) -> str:
        return self.name


class RotationMember(models.Model):
    """A device in a campaign. `credential` is its new key; the previous key is `old_version`."""

    class State(models.TextChoices):
        PENDING = "pending", _("waiting for its key")
        ISSUED = "issued", _("key issued")
        SENT = "sent", _("key sent")
        HANDED_OVER = "carried", _("token handed over")
        CONFIRMED = "moved", _("signs with the new key")
        MISSED = "left", _("missed the deadline")
        ROLLING_BACK = "returning", _("returning to the old key")
        ROLLED_BACK = "returned", _("uses the old key")

    campaign = models.ForeignKey(
        RotationCampaign, on_delete=models.CASCADE, related_name="members", verbose_name=_("key rotation")
    )
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="rotations", verbose_name=_("device"))
    state = models.CharField(_("state"), max_length=9, choices=State.choices, default=State.PENDING)
    open = models.BooleanField(default=True, editable=False)
    old_version = models.PositiveIntegerField(_("old key"), null=True)
    credential = models.ForeignKey(
        DeviceCredential, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("new key")
    )
    sent_at = models.DateTimeField(_("last sent"), null=True)
    attempts = models.PositiveSmallIntegerField(_("sent"), default=0)
    next_at = models.DateTimeField(null=True, editable=False)  # when it is sent (again)
    confirmed_at = models.DateTimeField(_("confirmed"), null=True, db_column="moved_at")
    note = models.CharField(_("description"), max_length=300, blank=True)

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["campaign", "device"], name="rotation_device_once"),
            # Two concurrent campaigns would expire each other's keys.
            models.UniqueConstraint(fields=["device"], condition=models.Q(open=True), name="rotation_one_at_a_time"),
        ]
        indexes: ClassVar = [
            # The counts of a campaign's page, and its next work.
            models.Index(fields=["campaign", "state"], name="rotation_by_state"),
        ]
        verbose_name = _("device in a key rotation")
        verbose_name_plural = _("devices in key rotations")

    def __str__(self) -> str:
        return str(self.device)
