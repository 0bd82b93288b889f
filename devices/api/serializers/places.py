"""Places, and the field for the place of a device."""

from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _

from devices.models import Place
from tenants.api.serializers.base import NamedObjectField, StrictModelSerializer

_NO_SUCH_PLACE = _("There is no place {value}. Create it at places/ first.")


def place_field(**options: Any) -> NamedObjectField:
    """Return a field for a place by its key."""
    return NamedObjectField(
        slug_field="key",
        queryset=Place.objects.all(),
        required=False,
        allow_null=True,
        error_messages={"does_not_exist": _NO_SUCH_PLACE},
        **{"help_text": "The key of a place.", **options},
    )


class PlaceSerializer(StrictModelSerializer[Place]):
    """A place; `path` has the keys from the root of its tree down to its own."""

    derived = ("path",)

    parent = place_field(help_text="The key of the place that contains this one; null for a root.")  # type: ignore[assignment]

    class Meta:
        model = Place
        fields: ClassVar = ["key", "name", "kind", "parent", "path"]
        read_only_fields: ClassVar = ["path"]
