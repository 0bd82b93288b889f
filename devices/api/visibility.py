"""The devices that the client of a request can see: every view of the API reads them here."""

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import serializers
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request

from devices.domain.selector import Selector
from devices.models import ApiKey, Device
from devices.services.visibility import narrow, selected_devices
from tenants.api.serializers.base import NamedObjectField
from tenants.services.roles import request_access

NO_SUCH_DEVICE = gettext_lazy("There is no device with the UUID {value}. devices/ lists the devices.")


def selector_of(request: Any) -> Selector:
    """Return the device selector of the request's API key or member; empty for one that sees all devices."""
    key = getattr(request, "auth", None)
    return Selector.from_stored(key.selector if isinstance(key, ApiKey) else request_access(request).selector)


def visible_devices(request: Any) -> QuerySet[Device]:
    """Return the current tenant's devices that the client can see."""
    return selected_devices(selector_of(request))


def require_visible(request: Any, device: Device) -> None:
    """Raise ValidationError where a change moved the device out of the client's sight; the caller rolls it back."""
    if not visible_devices(request).filter(pk=device.pk).exists():
        raise serializers.ValidationError(
            _("You could not see the device after this change: it must have a place, tag or model of your selector.")
        )


class VisibilityFilter(BaseFilterBackend):
    """Narrows the queryset of every view with a `device_path`, lists and single objects alike."""

    for_objects = True

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        """Return the rows of the devices that the client can see."""
        path = getattr(view, "device_path", "")
        return narrow(queryset, selector_of(request), path) if path else queryset


class VisibleDeviceField(NamedObjectField):
    """A device by its UUID; a device that the client cannot see is unknown."""

    def __init__(self, **options: Any) -> None:
        messages = {"does_not_exist": NO_SUCH_DEVICE}
        super().__init__(
            **{"slug_field": "uuid", "queryset": Device.objects.all(), "error_messages": messages} | options
        )

    def get_queryset(self) -> QuerySet[Device]:
        """Return the devices that the client can see."""
        return visible_devices(self.context["request"])
