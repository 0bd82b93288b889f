"""Device selectors of API keys and members."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from devices.domain.selector import MAX_DEVICES, MAX_NAMES, Selector
from devices.models import Device, HardwareModel, Place
from tenants.api.serializers.base import StrictSerializer
from tenants.infrastructure.error_codes import ErrorCode

from .attributes import TagsField


class SelectorSerializer(StrictSerializer):
    """Devices at a place or below it, with a tag, of a hardware model, or of a UUID: one of them suffices."""

    places = serializers.ListField(
        child=serializers.CharField(), required=False, max_length=MAX_NAMES, help_text="Keys of places."
    )
    tags = TagsField(required=False, help_text="Tags, at most 32.")
    hardware_models = serializers.ListField(
        child=serializers.IntegerField(), required=False, max_length=MAX_NAMES, help_text="Ids of hardware models."
    )
    devices = serializers.ListField(
        child=serializers.UUIDField(), required=False, max_length=MAX_DEVICES, help_text="UUIDs of devices."
    )

    def validate_places(self, keys: list[str]) -> list[int]:
        """Return the ids of the places."""
        return _ids(keys, dict(Place.objects.filter(key__in=keys).values_list("key", "pk")))

    def validate_hardware_models(self, ids: list[int]) -> list[int]:
        """Return the ids, which must exist."""
        found = [pk for pk in ids if -(2**63) <= pk < 2**63]
        return _ids(ids, {pk: pk for pk in HardwareModel.objects.filter(pk__in=found).values_list("pk", flat=True)})

    def validate_devices(self, uuids: list[Any]) -> list[str]:
        """Return the UUIDs, which must exist, as text."""
        return _ids(
            uuids, {one: str(one) for one in Device.objects.filter(uuid__in=uuids).values_list("uuid", flat=True)}
        )

    def validate(self, attrs: dict[str, Any]) -> Any:
        """Return the selector."""
        return Selector(**{name: tuple(values) for name, values in attrs.items()})

    def to_representation(self, stored: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the stored selector with the keys of its places; a removed place is left out."""
        if "places" not in stored:
            return stored
        places = Place.objects.filter(pk__in=stored["places"]).order_by("key")
        return stored | {"places": list(places.values_list("key", flat=True))}


def _ids(given: list[Any], known: dict[Any, Any]) -> list[Any]:
    """Return the known values of the given names, each once. Raises ValidationError for unknown ones."""
    if unknown := [str(name) for name in given if name not in known]:
        text = _("These do not exist: %(names)s.") % {"names": ", ".join(unknown[:10])}
        raise serializers.ValidationError(text, ErrorCode.DOES_NOT_EXIST)
    return list(dict.fromkeys(known[name] for name in given))
