"""The rows of the fault matrix by name: each module of rows adds its own."""

from collections.abc import Callable
from dataclasses import dataclass

from .scenario import Scenario

Play = Callable[[Scenario], None]


@dataclass(frozen=True, slots=True)
class Row:
    """A fault. A `control` leaves out an ingredient, and has to lose messages. `title` stands in the report."""

    name: str
    title: str
    play: Play
    control: bool = False

    @property
    def order(self) -> tuple[bool, int, str]:
        digits = "".join(filter(str.isdigit, self.name))
        return self.control, int(digits or 0), self.name


ROWS: dict[str, Row] = {}


class Skipped(Exception):
    """The row cannot be played on this machine; the message says why."""


def row(name: str, title: str, *, control: bool = False) -> Callable[[Play], Play]:
    """Add the function as the row of that name."""

    def add(play: Play) -> Play:
        ROWS[name] = Row(name, title, play, control)
        return play

    return add
