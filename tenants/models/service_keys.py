"""Keys with which programs of the platform's staff use the public API."""

import hashlib
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .tenants import User

SERVICE_KEY_PREFIX = "gws_"
# A key's first characters, which are kept and shown.
SERVICE_KEY_PREFIX_LENGTH = len(SERVICE_KEY_PREFIX) + 10
SERVICE_SCOPES = ("tenants:read", "tenants:write")


class ServiceKey(models.Model):
    """A key of the public API. Only its SHA-256 is stored.

    It has no more rights than the superuser who issued it, and ends with that account or its rights.
    """

    name = models.CharField(_("name"), max_length=120)
    prefix = models.CharField(_("prefix"), max_length=24, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    scopes = ArrayField(models.CharField(max_length=40), verbose_name=_("scopes"))
    issued_by = models.ForeignKey(
        User, on_delete=models.CASCADE, related_name="service_keys", verbose_name=_("issued by")
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True, editable=False)

    class Meta:
        ordering: ClassVar = ["name", "id"]
        verbose_name = _("service key")
        verbose_name_plural = _("service keys")

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def is_valid(self) -> bool:
        """Return whether the key can be used: its issuer must still be an active superuser."""
        is_over = self.expires_at is not None and self.expires_at <= timezone.now()
        return self.revoked_at is None and not is_over and self.issued_by.is_active and self.issued_by.is_superuser

    @staticmethod
    def digest_of(text: str) -> str:
        """Return the SHA-256 of a key's text in hexadecimal digits."""
        return hashlib.sha256(text.encode()).hexdigest()
