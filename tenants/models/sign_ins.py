"""Sign-ins of users, counted by address."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from .tenants import User


class SignIn(models.Model):
    """Sign-ins to an account from one address, successful or failed; `tenants.services.sign_in_history` writes it."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sign_ins", verbose_name=_("user"))
    # Of IPv6 the /64 network.
    address = models.CharField(_("address"), max_length=64)
    succeeded = models.BooleanField(_("succeeded"))
    count = models.PositiveIntegerField(_("count"), default=1)
    first_at = models.DateTimeField(_("first"))
    last_at = models.DateTimeField(_("last"))
    browser = models.CharField(_("browser"), max_length=80, blank=True)
    place = models.CharField(_("place"), max_length=60, blank=True)

    class Meta:
        ordering: ClassVar = ["-last_at"]
        constraints: ClassVar = [
            # The row that a sign-in increments; the throttle looks for a success from an address.
            models.UniqueConstraint(fields=["user", "address", "succeeded"], name="sign_ins_by_address"),
        ]
        verbose_name = _("sign-in")
        verbose_name_plural = _("sign-ins")

    def __str__(self) -> str:
        return f"{self.user} · {self.address}"
