"""Fields for tags, attributes and networks."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.domain import attributes, networks, tags


class NormalizedListField(serializers.ListField):
    """A list of texts, as a function of the domain normalizes it."""

    child = serializers.CharField()
    normalize: ClassVar[Any]  # a function of the texts; raises ValueError
    description: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"help_text": self.description, **options})

    def to_internal_value(self, data: Any) -> list[str]:
        """Return the normalized texts; raises ValidationError."""
        try:
            return type(self).normalize(super().to_internal_value(data))
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error


class TagsField(NormalizedListField):
    """Tags in order, each once."""

    normalize = staticmethod(tags.normalize)
    description = f"Lower-case words, at most {tags.MAX_TAGS}; the new list replaces the present one."


class NetworksField(NormalizedListField):
    """Networks as CIDR."""

    normalize = staticmethod(networks.normalize)
    description = f"Addresses or networks (CIDR), at most {networks.MAX_NETWORKS}. Empty: from everywhere."


@extend_schema_field(
    {
        "type": "object",
        "maxProperties": attributes.MAX_ATTRIBUTES,
        "propertyNames": {"minLength": 1, "maxLength": attributes.MAX_NAME_LENGTH},
        "additionalProperties": {
            "oneOf": [
                {"type": "string", "minLength": 1, "maxLength": attributes.MAX_TEXT_LENGTH},
                {"type": "number"},
                {"type": "boolean"},
            ]
        },
    }
)
class AttributesField(serializers.Field):
    """Attributes: names with a text, a number or a boolean."""

    def __init__(self, **options: Any) -> None:
        help_text = (
            f"Names with a text, a number or a boolean, at most {attributes.MAX_ATTRIBUTES}; the new object"
            " replaces the present one."
        )
        super().__init__(**{"help_text": help_text, **options})

    def to_internal_value(self, data: Any) -> attributes.Attributes:
        """Return the attributes; raises ValidationError."""
        try:
            return attributes.normalize(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error

    def to_representation(self, value: attributes.Attributes) -> attributes.Attributes:
        """Return the attributes as they are stored."""
        return value
