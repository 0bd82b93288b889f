"""Routes: the tenant of each device and of each app, and registrations that may become routes."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from .tenants import Tenant


class DeviceRoute(models.Model):
    """Device UUID → tenant, unique over the platform; it alone decides the tenant of a message."""

    device_uuid = models.UUIDField(_("device UUID"), primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="device_routes", verbose_name=_("tenant"))
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("device route")
        verbose_name_plural = _("device routes")

    def __str__(self) -> str:
        return str(self.device_uuid)


class RouteCandidate(models.Model):
    """A tenant's registration of a UUID that it chose and has not proven; the first one that is proven is the route.

    Beside a route of another tenant it is a dispute.
    """

    device_uuid = models.UUIDField(_("device UUID"))
    tenant = models.ForeignKey(
        Tenant, on_delete=models.CASCADE, related_name="route_candidates", verbose_name=_("tenant")
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            # Routing and logins look candidates up by UUID.
            models.UniqueConstraint(fields=["device_uuid", "tenant"], name="candidate_once_per_tenant"),
        ]
        verbose_name = _("unproven registration")
        verbose_name_plural = _("unproven registrations")

    def __str__(self) -> str:
        return f"{self.device_uuid} · {self.tenant}"


class AppRoute(models.Model):
    """Prefix of an API key → tenant of the app that connects to the broker with this key."""

    prefix = models.CharField(_("prefix"), max_length=24, primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="app_routes", verbose_name=_("tenant"))

    class Meta:
        verbose_name = _("app route")
        verbose_name_plural = _("app routes")

    def __str__(self) -> str:
        return self.prefix
