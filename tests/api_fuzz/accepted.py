"""The failures of schemathesis that are accepted, each with its reason. Without Django: schemathesis imports it."""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("accepted.toml")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A kind of error: its check, operations (method and path), and status; its code, or what its text contains."""

    check: str
    operations: str
    status: int
    reason: str
    codes: frozenset[str] = frozenset()
    detail: str = ""

    def covers(self, checks: Iterable[str], operation: str, status: int, code: str, detail: str) -> bool:
        """Return whether an error in the answer of a failure of one of these checks is of this kind."""
        if self.check not in checks or self.status != status or not re.fullmatch(self.operations, operation):
            return False
        return (not self.codes or code in self.codes) and re.search(self.detail, detail) is not None


def load(text: str | None = None) -> list[Accepted]:
    """Return the accepted kinds of a TOML text, by default those of the file."""
    rows = tomllib.loads(FILE.read_text(encoding="utf-8") if text is None else text).get("accepted", [])
    return [Accepted(**{**row, "codes": frozenset(row.get("codes", ()))}) for row in rows]


def kinds_of(
    kinds: Sequence[Accepted], checks: Iterable[str], operation: str, status: int, body: bytes
) -> list[int] | None:
    """Return the numbers of the kinds that cover the errors of an answer; None where one is not covered."""
    found = []
    for code, detail in errors_of(body):
        covering = (n for n, kind in enumerate(kinds) if kind.covers(checks, operation, status, code, detail))
        if (number := next(covering, None)) is None:
            return None
        found.append(number)
    return found or None


def errors_of(body: bytes) -> Iterator[tuple[str, str]]:
    """Yield code and text of each error of a problem document; nothing for any other body."""
    try:
        problem = json.loads(body)
    except ValueError:
        return
    if isinstance(problem, dict):
        for error in problem.get("errors") or [problem]:
            yield str(error.get("code")), str(error.get("detail"))
