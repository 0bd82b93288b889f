"""Clients of a tenant's API, and what its errors say."""

import datetime
from typing import Any
from urllib.parse import unquote

from django.conf import settings
from django.test import Client
from django.test.client import ClientHandler
from django_tenants.utils import schema_context

from tenants.infrastructure.error_codes import ErrorCode

T0 = datetime.datetime(2026, 11, 22, 9, 30, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


# One for all clients: each loads the middleware, which lists all static files.
HANDLER = ClientHandler(enforce_csrf_checks=False)


class Api:
    """A client of one tenant's API: with a key, with a session, or anonymous."""

    def __init__(self, slug: str, *, key: str = "", user: Any = None) -> None:
        self.root = f"/t/{slug}/api/v1/"
        self._client = Client(headers={"Authorization": f"Bearer {key}"} if key else None)
        self._client.handler = HANDLER
        if user is not None:
            with schema_context("public"):
                self._client.force_login(user)

    def send(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The answer to a request; `path` below api/v1/, or an address that an answer gave."""
        address = path if path.startswith(("/", "http")) else self.root + path
        kwargs: dict[str, Any] = {"query_params": query} if query else {}
        if body is not None:
            kwargs |= {"data": body, "content_type": "application/json"}
        return getattr(self._client, method.lower())(address, **kwargs)

    def get(self, path: str, **query: Any) -> Any:
        return self.send("get", path, **query)

    def post(self, path: str, body: Any = None) -> Any:
        return self.send("post", path, {} if body is None else body)

    def patch(self, path: str, body: Any) -> Any:
        return self.send("patch", path, body)

    def delete(self, path: str) -> Any:
        return self.send("delete", path)


def problems(answer: Any) -> dict[str | None, str]:
    """What an error answer says, by member or parameter; checks its shape."""
    document = problem_of(answer)
    return {_name_of(error): error["detail"] for error in document["errors"]} or {None: document["detail"]}


def problem_of(answer: Any) -> dict[str, Any]:
    """The problem document of an error answer; checks its shape."""
    document: dict[str, Any] = answer.json()
    assert answer["Content-Type"] == "application/problem+json"
    assert document.keys() == {"type", "title", "status", "code", "detail", "errors"}, document
    code = ErrorCode(document["code"])
    assert document["status"] == answer.status_code == code.status, document
    assert document["type"] == f"{settings.PUBLIC_URL}/api/docs/errors/#{code}"
    assert document["title"]
    assert document["detail"]
    for error in document["errors"]:
        assert len(error.keys() & {"pointer", "parameter", "header"}) <= 1, error
        assert error.keys() - {"pointer", "parameter", "header"} == {"code", "detail"}
        assert ErrorCode(error["code"])
    return document


def _name_of(error: dict[str, str]) -> str | None:
    """The name of the wrong value, with dots between levels; None for the whole body."""
    pointer = error.get("pointer", "#").removeprefix("#").removeprefix("/")
    return error.get("parameter") or error.get("header") or unquote(pointer).replace("/", ".") or None
