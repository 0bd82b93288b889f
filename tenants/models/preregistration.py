"""Boards that are made known before anybody owns them: a tenant claims one with the code on its label."""

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class Board(models.Model):
    """A board that was preregistered. Claimed, it is a device of a tenant; released, it can be claimed again.

    Its claim code (on the label) and its fetch token (on the card) are kept as hashes: they are random, and long
    enough that nobody finds them by trying.
    """

    serial = models.CharField(_("serial number"), max_length=64, unique=True)
    hardware_name = models.CharField(_("hardware model"), max_length=80)
    hardware_version = models.CharField(_("hardware version"), max_length=40)
    cpu_serial = models.CharField(
        _("CPU serial"), max_length=64, blank=True, help_text=_("Where given, every message must carry it.")
    )
    name = models.CharField(_("name"), max_length=120, blank=True, help_text=_("Empty: the serial number."))
    components = models.CharField(
        _("components"),
        max_length=1000,
        blank=True,
        help_text=_("For example dht22;dht22-2:dht22;pump: each a key, and its type where that is another word."),
    )
    claim_digest = models.CharField(max_length=64, editable=False)
    fetch_digest = models.CharField(max_length=64, unique=True, editable=False)  # how a device that asks is found
    codes_issued_at = models.DateTimeField(_("codes issued"), editable=False)
    created_at = models.DateTimeField(_("preregistered"), auto_now_add=True)
    created_by_label = models.CharField(_("by"), max_length=150, editable=False)

    tenant = models.ForeignKey(
        "tenants.Tenant",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="boards",
        verbose_name=_("claimed by"),
    )
    device_uuid = models.UUIDField(_("device UUID"), null=True, unique=True, editable=False)
    # The UUID of its next device. A claim that ended half-way finds the same place in Vault.
    next_uuid = models.UUIDField(default=uuid.uuid4, editable=False)
    claimed_at = models.DateTimeField(_("claimed"), null=True, editable=False)

    fetched_at = models.DateTimeField(_("credentials fetched"), null=True, editable=False)
    # Of what the device that fetched them calls its attempt: only that one may hear the answer again.
    attempt_digest = models.CharField(max_length=64, blank=True, editable=False)
    asked_again = models.PositiveIntegerField(_("asked for again"), default=0, editable=False)
    asked_again_at = models.DateTimeField(_("last asked for again"), null=True, editable=False)
    asked_again_from = models.CharField(_("from"), max_length=45, blank=True, editable=False)

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            # A board that is claimed is a device of somebody's.
            models.CheckConstraint(
                condition=Q(tenant=None, device_uuid=None) | Q(tenant__isnull=False, device_uuid__isnull=False),
                name="claimed_board_is_a_device",
            ),
        ]
        verbose_name = _("preregistered board")
        verbose_name_plural = _("preregistered boards")

    def __str__(self) -> str:
        return self.serial

    @property
    def hardware(self) -> str:
        """The hardware model as tables name it."""
        return f"{self.hardware_name} {self.hardware_version}"
