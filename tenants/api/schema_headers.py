"""The headers of requests and answers in the OpenAPI document that whole groups of operations share."""

from typing import Any

_WITHOUT_KEY = frozenset({"/api/v1/tenants/", "/api/v1/provisioning/credentials/", "/api/v1/devices/{uuid}/messages/"})
# Printable ASCII without blanks, or in quotation marks with blanks.
IDEMPOTENCY_KEY_PATTERN = r'^("[\x20-\x21\x23-\x5b\x5d-\x7e]{1,255}"|[\x21\x23-\x7e]{1,255})$'
_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "minLength": 1, "maxLength": 257, "pattern": IDEMPOTENCY_KEY_PATTERN},
    "description": "The same request with the same key is carried out once, and receives the same answer for 24 hours.",
}
_IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "schema": {"type": "string"},
    "description": "Change only the object with this ETag; otherwise 412.",
}
_IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "schema": {"type": "string"},
    "description": "Answer 304 while the object has this ETag.",
}


def describe_headers(result: dict[str, Any], **_options: Any) -> dict[str, Any]:
    """Return the document with the shared headers and their statuses; a hook of drf-spectacular."""
    for path, operations in result["paths"].items():
        if "post" in operations and path not in _WITHOUT_KEY:
            _add(operations["post"], _IDEMPOTENCY_KEY, "409", "422")
        if "patch" in operations or "delete" in operations:
            for method in {"patch", "delete"} & operations.keys():
                _add(operations[method], _IF_MATCH, "412")
            if "get" in operations:
                _add(operations["get"], _IF_NONE_MATCH)
                operations["get"]["responses"]["304"] = {"description": "The client has the object as it is."}
    return result


def _add(operation: dict[str, Any], header: dict[str, Any], *refusals: str) -> None:
    operation.setdefault("parameters", []).append(header)
    for status in refusals:
        operation["responses"].setdefault(status, operation["responses"]["401"])
