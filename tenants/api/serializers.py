"""Serializers that ignore nothing they are given."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers


class StrictSerializer(serializers.Serializer):
    """Refuses members that do not exist or cannot be written, instead of leaving them out silently."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            refuse_unwritable(data, self)
        return super().to_internal_value(data)


def refuse_unwritable(data: Mapping[str, Any], serializer: serializers.Serializer[Any]) -> None:
    """400 for every member of the body that would have no effect."""
    fields = serializer.fields
    writable = ", ".join(sorted(name for name, field in fields.items() if not field.read_only))
    errors = {}
    for name in data:
        if name not in fields:
            errors[str(name)] = _("There is no member %(name)r. Known here: %(known)s.") % {
                "name": name,
                "known": writable,
            }
        elif fields[name].read_only:
            errors[str(name)] = _("%(name)r cannot be changed. What can: %(known)s.") % {
                "name": name,
                "known": writable,
            }
    if errors:
        raise serializers.ValidationError(errors)
