"""Answers of operations: the parsed body, or an exception with the problem document."""

import json
from typing import Any, TypeVar

from .generated.models.error import Error
from .generated.types import Response

T = TypeVar("T")


class ApiProblem(Exception):
    """The API refused a request. `code` is the stable cause; `errors` name the members and parameters at fault."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        self.status = status
        self.code: str = document.get("code", "")
        self.title: str = document.get("title", "")
        self.detail: str = document.get("detail", "")
        self.errors: list[dict[str, str]] = document.get("errors", [])
        super().__init__(f"{status} {self.code}: {self.detail or self.title}")


def unwrap(response: Response[Error | T]) -> T:
    """Return the body of a successful answer, None where it has none. Raises ApiProblem on any other."""
    raise_for_problem(response.status_code, response.content)
    return response.parsed  # type: ignore[return-value]  # an Error has another status


def raise_for_problem(status: int, content: bytes) -> None:
    """Raise ApiProblem on a status of 400 or more, with what the body says."""
    if status < 400:
        return
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"detail": content[:500].decode(errors="replace")}
    raise ApiProblem(int(status), document)
