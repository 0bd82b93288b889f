"""Report of an import: results and problems by table."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# So many errors of each table are listed; the others are counted.
MOST_ERRORS = 100
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem to correct. `line` counts from 1, the header; 0 is the file as a whole."""

    file: str
    line: int
    column: str
    message: str

    def __str__(self) -> str:
        place = self.file + (f", line {self.line}" if self.line else "") + (f", {self.column}" if self.column else "")
        return f"{place}: {self.message}"


@dataclass(slots=True)
class TableReport:
    """Results of a table's rows: read = created + unchanged + skipped + errors.

    `notes` are remarks on imported rows.
    """

    table: str
    read: int = 0
    created: int = 0
    unchanged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    problems: list[Problem] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fail(self, problem: Problem, rows: int = 1) -> None:
        """Record a row, or the whole file (`rows` 0), that cannot be imported."""
        self.errors += rows
        if len(self.problems) < MOST_ERRORS:
            self.problems.append(problem)

    def skip(self, reason: str, example: str) -> None:
        """Record a row that is skipped or quarantined, with its reason."""
        self.skipped[reason] += 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < _EXAMPLES:
            kept.append(example)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "table": self.table,
            "read": self.read,
            "created": self.created,
            "unchanged": self.unchanged,
            "skipped": dict(sorted(self.skipped.items())),
            "errors": self.errors,
            "problems": [
                {"file": p.file, "line": p.line, "column": p.column, "message": p.message} for p in self.problems
            ],
            "examples": self.examples,
            "notes": self.notes,
        }


class Report:
    """The tables' reports, in the order of their first mention."""

    def __init__(self) -> None:
        self._tables: dict[str, TableReport] = {}

    def table(self, name: str) -> TableReport:
        """Return the table's report, created with its first mention."""
        return self._tables.setdefault(name, TableReport(name))

    def __iter__(self) -> Iterator[TableReport]:
        return iter(self._tables.values())

    def replace(self, other: "Report") -> None:
        """Take over the content of another report."""
        self._tables = {table.table: table for table in other}

    @property
    def problems(self) -> list[Problem]:
        """Return the problems of all tables."""
        return [problem for table in self for problem in table.problems]

    def as_json(self) -> list[dict[str, Any]]:
        """Return plain values for JSON."""
        return [table.as_json() for table in self]


def show(report: Report, console: Console) -> None:
    """Print the report as a table, with problems and notes below it."""
    grid = Table("table")
    for name in ("read", "created", "unchanged", "skipped", "errors"):
        grid.add_column(name, justify="right")
    for table in report:
        counts = (table.read, table.created, table.unchanged, table.skipped.total(), table.errors)
        grid.add_row(table.table, *map(str, counts))
    console.print(grid)
    for table in report:
        for reason, times in sorted(table.skipped.items()):
            console.print(escape(f"{table.table}: {times} skipped: {reason}"))
            for example in table.examples.get(reason, ()):
                console.print(escape(f"    {example}"), soft_wrap=True)
        for note in table.notes:
            console.print(escape(f"{table.table}: {note}"), soft_wrap=True)
    for problem in report.problems:
        console.print(escape(str(problem)), style="red", soft_wrap=True)
    hidden = sum(max(0, table.errors - len(table.problems)) for table in report)
    if hidden:
        console.print(f"{hidden} more errors are not shown.", style="red")
