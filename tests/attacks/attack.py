"""Attacks and brakes by name. Each module in `tests/attacks/rows` adds its own.

An attack measures its cost for other tenants, and names the brake that bounds it. Each is played twice: with all
brakes, where its bounds must hold, and without its brake (the control), where they must not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from . import rows

if TYPE_CHECKING:
    from .arena import Arena


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure and the greatest value that it may have. A `timed` one depends on what else the machine does."""

    name: str
    value: float
    at_most: float
    timed: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the value is within the bound."""
        return self.value <= self.at_most


@dataclass(slots=True)
class Measurement:
    """The result of one play: named figures (their units in the names), and bounds on some."""

    figures: dict[str, float] = field(default_factory=dict)
    bounds: list[Bound] = field(default_factory=list)

    def bound(self, name: str, value: float, at_most: float, *, timed: bool = False) -> None:
        """Add a figure that may not exceed `at_most`."""
        self.bounds.append(Bound(name, value, at_most, timed))

    @property
    def is_met(self) -> bool:
        """Whether all bounds hold; False without a bound, which would show nothing."""
        return bool(self.bounds) and all(bound.is_met for bound in self.bounds)


Play = Callable[["Arena"], Measurement]


@dataclass(frozen=True, slots=True)
class Attack:
    """`kind` is the module's name. `brake` is removed in the control. A `short` attack is also part of the suite."""

    name: str
    kind: str
    title: str
    play: Play
    brake: str
    short: bool


ATTACKS: dict[str, Attack] = {}
# Each removes a brake from this process, before the program that it belongs to begins.
BRAKES: dict[str, Callable[[], None]] = {}


def attack(name: str, title: str, *, brake: str, short: bool = False) -> Callable[[Play], Play]:
    """Add the function as the attack of that name."""

    def add(play: Play) -> Play:
        kind = play.__module__.rpartition(".")[2]
        ATTACKS[name] = Attack(name, kind, title, play, brake, short)
        return play

    return add


def brake(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Add the function as the one that removes the brake of that name."""

    def add(remove: Callable[[], None]) -> Callable[[], None]:
        BRAKES[name] = remove
        return remove

    return add


def load_rows() -> None:
    """Import every module of rows, which adds its attacks and brakes. Django must be set up."""
    for module in iter_modules(rows.__path__):
        import_module(f"{rows.__name__}.{module.name}")
