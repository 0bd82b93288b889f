"""Every answer in the tests of the API, compared with the OpenAPI document: as middleware, so that none is missed."""

import gzip
import os
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import orjson
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_only_middleware
from jsonschema_rs import Draft202012Validator, ValidationErrorKind

from tenants.api.views.schema import document_of_addresses

Operation = dict[str, Any]


@sync_only_middleware
def check_answers(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Fail a test whose request gets an answer that the document does not describe."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        sent = _body_of(request)
        response = get_response(request)
        if request.path_info.startswith("/api/v1/") and request.method != "OPTIONS" and _is_test_of_api():
            check(request, sent, response)
        return response

    return answer


def check(request: HttpRequest, sent: bytes, response: HttpResponseBase) -> None:
    """Compare an answer with the document: its status, content type and body, and the body that it accepted."""
    urlconf: str = getattr(request, "urlconf", None) or ""
    found = operation_of(urlconf, request.path_info, request.method or "") if urlconf else None
    if found is None:
        assert response.status_code in (302, 404, 405), (
            f"{request.method} {request.path_info} is not documented, and answers {response.status_code}"
        )
        return
    template, operation = found
    where = f"{request.method} {template} → {response.status_code}"
    described = operation["responses"].get(str(response.status_code))
    assert described is not None, f"{where}: the status is not documented"
    if response.status_code < 300 and sent and request.content_type == "application/json":
        _check_body(urlconf, operation, sent, where)
    if request.method == "HEAD" or response.streaming or not getattr(response, "content", b""):
        return
    kind = response.headers["Content-Type"].partition(";")[0]
    assert kind in described.get("content", {}), f"{where}: the content type {kind} is not documented"
    if kind.endswith("json"):
        content: bytes = response.content  # type: ignore[attr-defined]
        if response.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        _validate(urlconf, described["content"][kind]["schema"], content, where, partial="fields" in request.GET)


def _check_body(urlconf: str, operation: Operation, sent: bytes, where: str) -> None:
    if "requestBody" not in operation:
        assert orjson.loads(sent) == {}, f"{where}: a body is not documented"
        return
    _validate(urlconf, operation["requestBody"]["content"]["application/json"]["schema"], sent, f"{where}: request")


def operation_of(urlconf: str, path: str, method: str) -> tuple[str, Operation] | None:
    """Return the path's template and the operation; None where the document has none."""
    for template, pattern, operations in _patterns(urlconf):
        if pattern.fullmatch(path):
            operation = operations.get("get" if method == "HEAD" else method.lower())
            return (template, operation) if operation else None
    return None


@cache
def _patterns(urlconf: str) -> list[tuple[str, re.Pattern[str], dict[str, Operation]]]:
    paths = document_of_addresses(urlconf)["paths"]
    # Those without a variable first: devices/export/ is not devices/{uuid}/.
    return [
        (template, re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))), paths[template])
        for template in sorted(paths, key=lambda path: ("{" in path, path))
    ]


def _validate(urlconf: str, schema: Any, content: bytes, where: str, *, partial: bool = False) -> None:
    """Compare a body with its schema; a partial one, selected by `fields`, may lack members."""
    for error in _validator(urlconf, orjson.dumps(schema)).iter_errors(orjson.loads(content)):
        if partial and isinstance(error.kind, ValidationErrorKind.Required):
            continue
        place = "/".join(str(part) for part in error.instance_path)
        raise AssertionError(f"{where}: {place or 'body'}: {error.message}")


@cache
def _validator(urlconf: str, schema: bytes) -> Draft202012Validator:
    components = {"schemas": {name: _closed(part) for name, part in _schemas(urlconf).items()}}
    return Draft202012Validator({**orjson.loads(schema), "components": components}, validate_formats=True)


def _schemas(urlconf: str) -> dict[str, Any]:
    schemas: dict[str, Any] = document_of_addresses(urlconf)["components"]["schemas"]
    return schemas


def _closed(schema: Any) -> Any:
    """Return the schema without members that it does not name: an answer must not have others."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: _closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        parts["additionalProperties"] = False
    return parts


def _is_test_of_api() -> bool:
    return os.environ.get("PYTEST_CURRENT_TEST", "").startswith("tests/api/")


def _body_of(request: HttpRequest) -> bytes:
    """The JSON that was sent; empty for one that is too large to be read."""
    size = int(request.META.get("CONTENT_LENGTH") or 0)
    is_read = request.content_type == "application/json" and 0 < size <= (settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0)
    return request.body if is_read else b""
