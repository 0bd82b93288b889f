"""Preregistered devices: registered by staff before they have a tenant, which claims them with a code."""

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class PreregisteredDevice(models.Model):
    """A device without a tenant. Claimed, it is a device of a tenant; released, it can be claimed again.

    Its claim code (on the label) and its fetch token (on the card) are stored as hashes: both are random, and too long
    to be guessed.
    """

    serial = models.CharField(_("serial number"), max_length=64, unique=True)
    hardware_name = models.CharField(_("hardware model"), max_length=80)
    hardware_version = models.CharField(_("hardware version"), max_length=40)
    cpu_serial = models.CharField(
        _("CPU serial"), max_length=64, blank=True, help_text=_("If set, every message must contain it.")
    )
    name = models.CharField(_("name"), max_length=120, blank=True, help_text=_("If empty, the serial number."))
    components = models.CharField(
        _("components"),
        max_length=1000,
        blank=True,
        help_text=_(
            "For example dht22;dht22-2:dht22;pump: each is a key, followed by :type where the type differs"
            " from the key."
        ),
    )
    claim_digest = models.CharField(max_length=64, editable=False)
    fetch_digest = models.CharField(max_length=64, unique=True, editable=False)  # identifies a device that fetches
    codes_issued_at = models.DateTimeField(_("codes issued"), editable=False)
    created_at = models.DateTimeField(_("preregistered"), auto_now_add=True)
    created_by_label = models.CharField(_("by"), max_length=150, editable=False)

    tenant = models.ForeignKey(
        "tenants.Tenant",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="preregistered_devices",
        verbose_name=_("claimed by"),
    )
    device_uuid = models.UUIDField(_("device UUID"), null=True, unique=True, editable=False)
    # The UUID of its next device, so that a claim that is repeated after a crash uses the same path in Vault.
    next_uuid = models.UUIDField(default=uuid.uuid4, editable=False)
    claimed_at = models.DateTimeField(_("claimed"), null=True, editable=False)

    fetched_at = models.DateTimeField(_("credentials fetched"), null=True, editable=False)
    # Hash of the attempt that fetched them: only a request of the same attempt receives them again.
    attempt_digest = models.CharField(max_length=64, blank=True, editable=False)
    repeated_requests = models.PositiveIntegerField(
        _("repeated requests"), default=0, editable=False, db_column="asked_again"
    )
    repeated_request_at = models.DateTimeField(
        _("last repeated request"), null=True, editable=False, db_column="asked_again_at"
    )
    repeated_request_from = models.CharField(
        _("from"), max_length=45, blank=True, editable=False, db_column="asked_again_from"
    )

    class Meta:
        db_table = "tenants_board"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            # A claimed one has a tenant and a device.
            models.CheckConstraint(
                condition=Q(tenant=None, device_uuid=None) | Q(tenant__isnull=False, device_uuid__isnull=False),
                name="claimed_board_is_a_device",
            ),
        ]
        verbose_name = _("preregistered device")
        verbose_name_plural = _("preregistered devices")

    def __str__(self) -> str:
        return self.serial

    @property
    def hardware(self) -> str:
        """Return name and version of the hardware model, as tables name it."""
        return f"{self.hardware_name} {self.hardware_version}"
