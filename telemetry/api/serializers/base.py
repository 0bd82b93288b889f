"""Fields and parts that several answers share."""

import base64
import codecs
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from telemetry.services.queries.completeness import PartialCode


@extend_schema_field({"oneOf": [{"type": "number"}, {"type": "boolean"}, {"type": "string"}]})
class ValueField(serializers.Field):
    """A number, a boolean or a text, as it was measured."""

    def to_representation(self, value: Any) -> Any:
        """Return the value for JSON."""
        return value


class UnitField(serializers.CharField):
    """A unit's symbol as it was when the value was measured, or null for none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_null=True, **options)

    def to_representation(self, value: Any) -> Any:
        """Return the value for JSON."""
        return value or None


class WarningSerializer(serializers.Serializer):
    """A reason why the answer may not be complete."""

    code = serializers.ChoiceField(choices=[code.value for code in PartialCode])
    detail = serializers.CharField(help_text="The same in words.")


class CompleteSerializer(serializers.Serializer):
    """Completeness of the answer, as far as the platform knows."""

    complete = serializers.BooleanField()
    warnings = WarningSerializer(
        many=True, help_text="Reasons for which the answer may not be complete; empty if it is."
    )


def payload_text(payload: bytes, *, cut: bool = False) -> tuple[str, str]:
    """Return a payload as text and its encoding: ("…", "utf-8") if it is UTF-8, else ("…", "base64").

    `cut` says that it is only the beginning, which may end within a character: that one is left out.
    """
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(payload, final=not cut), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(payload).decode(), "base64"
