"""The OpenAPI document: the errors of each operation, and what a request must not contain."""

import json
from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction
from rest_framework.serializers import JSONField

from tenants.api.entity_tags import TaggedView
from tenants.api.negotiation import JSONErrorsNegotiation
from tenants.api.problems import CONTENT_TYPE, ErrorSerializer
from tenants.api.serializers.base import StrictSerializer


class ProblemAutoSchema(AutoSchema):
    """Describes every status with which an operation can answer; those of errors have a problem document."""

    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        described = super()._get_response_bodies(direction)
        if direction != "response":
            return described
        statuses = {status for status in described if status >= "400"} | self._error_statuses()
        successes = {status: answer for status, answer in described.items() if status < "400"}
        return successes | {status: self._error(status) for status in sorted(statuses)}

    def _map_serializer(self, serializer: Any, direction: Direction, bypass_extensions: bool = False) -> dict[str, Any]:
        """Describe a serializer; a strict one accepts no other members."""
        described = super()._map_serializer(serializer, direction, bypass_extensions)
        if direction == "request" and "properties" in described and _is_strict(serializer):
            described["additionalProperties"] = False
            if getattr(serializer, "partial", False):
                for name in getattr(serializer, "fixed", ()):
                    described["properties"].pop(name, None)
        return described

    def _map_serializer_field(self, field: Any, direction: Direction, bypass_extensions: bool = False) -> Any:
        """Describe a field; a list that must have entries, and any JSON value but null."""
        described = super()._map_serializer_field(field, direction, bypass_extensions)
        if direction == "request" and getattr(field, "allow_empty", True) is False and "items" in described:
            described.setdefault("minItems", 1)
        if direction == "request" and isinstance(field, JSONField) and not field.allow_null:
            described.setdefault("type", ["object", "array", "string", "number", "boolean"])
            described.setdefault("items", {})
        return described

    def _error(self, status: str) -> dict[str, Any]:
        return self._get_response_for_code(ErrorSerializer, status, media_types=[CONTENT_TYPE])

    def _error_statuses(self) -> set[str]:
        statuses = {"400", "404", "500", "503"}
        if self.method in ("PATCH", "DELETE") and isinstance(self.view, TaggedView):
            statuses.add("412")
        if self.method == "POST" and getattr(self.view, "accepts_idempotency_key", False):
            statuses.add("422")
        if self.view.get_authenticators():
            statuses |= {"401", "403", "429"}
        if self.view.get_throttles() or self._has_body():
            statuses.add("429")
        if not isinstance(self.view.get_content_negotiator(), JSONErrorsNegotiation):
            statuses.add("406")
        if getattr(self.view, "action", "") == "list":
            statuses |= set(getattr(self.view, "list_statuses", ()))
        if self._has_body():
            statuses |= {"408", "409", "413", "415"}
        return statuses

    def _has_body(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH", "DELETE")


def require_parameter_values(result: dict[str, Any], **_options: Any) -> dict[str, Any]:
    """Return the document with query parameters that must not be empty; a hook of drf-spectacular."""
    for operations in result["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "query":
                    schema = parameter["schema"]
                    _require_value(schema.get("items", schema))
    return result


def _require_value(schema: dict[str, Any]) -> None:
    if schema.get("type") == "string" and not schema.keys() & {"enum", "format", "pattern"}:
        schema.setdefault("minLength", 1)


def remove_unused_schemas(result: dict[str, Any], **_options: Any) -> dict[str, Any]:
    """Return the document without schemas that nothing refers to; a hook of drf-spectacular."""
    schemas, text = result["components"]["schemas"], json.dumps(result, default=str)
    unused = {name for name in schemas if f'"#/components/schemas/{name}"' not in text}
    for name in unused:
        del schemas[name]
    return remove_unused_schemas(result) if unused else result


def _is_strict(serializer: Any) -> bool:
    kind = serializer if isinstance(serializer, type) else type(serializer)
    return issubclass(kind, StrictSerializer)
