"""Publishers that a gateway has seen, and that are not devices yet."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from .inventory import Device


class WaitingPublisher(models.Model):
    """What a publisher on a gateway's local broker has sent, and the component type that it would have as a device.

    Written by `devices.services.provisioning.waiting_publishers` only.
    """

    gateway = models.ForeignKey(
        Device, on_delete=models.CASCADE, related_name="waiting_publishers", verbose_name=_("gateway")
    )
    publisher = models.CharField(
        _("publisher"), max_length=120, help_text=_("The dialect and the name; the external id of the device.")
    )
    message_count = models.PositiveBigIntegerField(_("messages"))
    example = models.JSONField(_("example"))
    contract = models.JSONField(_("proposed component type"))
    first_seen_at = models.DateTimeField(_("first seen"), auto_now_add=True)
    last_seen_at = models.DateTimeField(_("last seen"))

    class Meta:
        ordering: ClassVar = ["publisher", "id"]
        constraints: ClassVar = [
            # An announcement changes the row of the one before.
            models.UniqueConstraint(fields=["gateway", "publisher"], name="waiting_publisher_once"),
        ]
        verbose_name = _("waiting publisher")
        verbose_name_plural = _("waiting publishers")

    def __str__(self) -> str:
        return self.publisher
